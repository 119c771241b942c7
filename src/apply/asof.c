/*-------------------------------------------------------------------------
 *
 * asof.c
 *	  Who was who: cdp.resolve_at() and cdp.identifiers_at().
 *
 *	  The answer is what would follow from a log that held only the entries
 *	  with effective time <= at and received_at <= known_at.  Whatever follows
 *	  from a log is a function of its entries and of the rules; so the entries
 *	  of the identifier's cluster are collected from the log, those that are
 *	  too late are left out, and the rest is judged anew, in memory, by the
 *	  code that the applier uses (a sealed graph, see identity/graph.h), under
 *	  the kinds and guards that were in force at known_at.
 *
 *	  Entries are found from identifier to identifier: by cdp.links and
 *	  cdp.entries those that count now, by cdp.history_entries those that do
 *	  not, or not any more.  So the cost is that of the cluster, and not of the
 *	  log.  When an identifier means something else under the kinds of now,
 *	  these tables do not lead to all of the entries, and the log is read
 *	  instead, from its beginning to known_at.
 *
 *	  Profile ids are those of now: a component has the smallest number that
 *	  its identifiers have, or had.
 *
 * IDENTIFICATION
 *	  src/apply/asof.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "apply/asof.h"
#include "cdp.h"
#include "sensitive.h"
#include "statement.h"
#include "trust/plan.h"

PG_FUNCTION_INFO_V1(cdp_resolve_at);
PG_FUNCTION_INFO_V1(cdp_identifiers_at);
PG_FUNCTION_INFO_V1(cdp_identifiers_of_at);

/* What the copies of a message, or undos of it, have in common. */
typedef struct MessageKey
{
	text	   *source;
	text	   *message_id;
} MessageKey;

typedef struct Message
{
	MessageKey	key;			/* hash key */
	CdpLogItem	   *item;
} Message;

typedef struct Pair
{
	int64		a;				/* hash key, with b */
	int64		b;
	CdpEntry   *latest;			/* decision that is active */
} Pair;

static CdpStatement contents = {
	"SELECT cdp.content_hash(e) FROM cdp.events e WHERE e.xid = $1 AND e.id = $2"
	" AND e.incarnation = $3",
	{"int8", "int8", "int4"}
};

static CdpStatement smallest_number = {
	"SELECT min(coalesce("
	" (SELECT i.node_id FROM cdp.identities i WHERE i.identifier = u.t::cdp.identifier),"
	" (SELECT max(f.node_id) FROM cdp.former_identities f WHERE f.identifier = u.t::cdp.identifier)))"
	" FROM (SELECT unnest($1) AS t) AS u",
	{"text[]"}
};

static CdpStatement identifier_of = {
	"SELECT i.identifier FROM cdp.identities i WHERE i.node_id = $1"
	" UNION ALL"
	" SELECT f.identifier FROM cdp.former_identities f WHERE f.node_id = $1"
	" LIMIT 1",
	{"int8"}
};

static CdpStatement history_from = {
	"SELECT a.history_from FROM cdp.applier a",
	{NULL}
};

static CdpStatement changes_of_rules = {
	"SELECT c.id FROM cdp.rule_changes c",
	{NULL}
};

/* ---- what the entries add up to ---- */

static uint32
message_hash(const void *key, Size keysize)
{
	const MessageKey *k = key;

	return (uint32) CdpMessageHash(k->source, k->message_id);
}

static bool
same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

static int
message_match(const void *key1, const void *key2, Size keysize)
{
	const MessageKey *a = key1;
	const MessageKey *b = key2;

	return same_text(a->source, b->source) &&
		same_text(a->message_id, b->message_id) ? 0 : 1;
}

static HTAB *
message_table(void)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(MessageKey);
	ctl.entrysize = sizeof(Message);
	ctl.hash = message_hash;
	ctl.match = message_match;
	ctl.hcxt = CurrentMemoryContext;
	return hash_create("cdp messages", 64, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

static char *
content_hash(CdpEntry *entry)
{
	Datum		args[3];
	char	   *hash;

	args[0] = Int64GetDatum(entry->xid);
	args[1] = Int64GetDatum(entry->id);
	args[2] = Int32GetDatum(entry->incarnation);
	if (CdpRun(&contents, args, NULL) != 1)
		elog(ERROR, "entry %lld is not in the log", (long long) entry->id);
	hash = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	hash = pstrdup(hash ? hash : "");
	SPI_freetuptable(SPI_tuptable);
	return hash;
}

/*
 * Does copy a count rather than copy b?  As duplicate.c has it.
 */
static bool
better(CdpEntry *a, CdpEntry *b)
{
	int			cmp;

	if (a->at != b->at)
		return a->at < b->at;
	cmp = strcmp(content_hash(a), content_hash(b));
	return cmp != 0 ? cmp < 0 : a->id < b->id;
}

/*
 * Is it this item that counts, and not the other copy of the message?
 */
static bool
outdoes(CdpLogItem *item, CdpLogItem *other)
{
	if (item->proven && !other->pending)
		return true;
	if (other->proven && !item->pending)
		return false;
	return better(item->entry, other->entry);
}

/*
 * The entries that are neither rejected nor outdone by a copy.
 */
static CdpEntry **
counting_entries(CdpAsOf *asof, int *n)
{
	HTAB	   *messages = message_table();
	CdpEntry  **entries;
	HASH_SEQ_STATUS seq;
	CdpLogItem	   *item;

	hash_seq_init(&seq, asof->items);
	while ((item = hash_seq_search(&seq)) != NULL)
	{
		MessageKey	key;
		Message    *message;
		bool		found;

		if (item->entry->reject_reason != NULL)
			continue;
		if (item->entry->message_id == NULL)
		{
			item->best = true;
			continue;
		}
		key.source = item->entry->source;
		key.message_id = item->entry->message_id;
		message = hash_search(messages, &key, HASH_ENTER, &found);
		if (found && !outdoes(item, message->item))
			continue;
		if (found)
			message->item->best = false;
		message->item = item;
		item->best = true;
	}

	hash_seq_init(&seq, asof->items);
	entries = palloc(sizeof(CdpEntry *) * Max(hash_get_num_entries(asof->items), 1));
	*n = 0;
	while ((item = hash_seq_search(&seq)) != NULL)
	{
		if (item->best && item->taken)
			entries[(*n)++] = item->entry;
	}
	return entries;
}

static int
latest_first(const void *a, const void *b)
{
	return CdpEntryCompare(*(CdpEntry *const *) b, *(CdpEntry *const *) a);
}

/*
 * Drop the entries that an undo revokes, and the undos.  An undo is later than
 * what it revokes, so it is judged first.
 */
static int
drop_undone(CdpEntry **entries, int n)
{
	HTAB	   *undone = message_table();
	int			kept = 0;
	int			i;

	qsort(entries, n, sizeof(CdpEntry *), latest_first);
	for (i = 0; i < n; i++)
	{
		MessageKey	key;

		CHECK_FOR_INTERRUPTS();
		key.source = entries[i]->source;
		key.message_id = entries[i]->message_id;
		if (key.message_id == NULL)
			key.message_id = cstring_to_text(psprintf("#%lld", (long long) entries[i]->id));
		if (hash_search(undone, &key, HASH_FIND, NULL) != NULL)
			continue;
		if (entries[i]->type == CDP_ENTRY_UNDO)
		{
			key.message_id = CdpUndoTarget(entries[i]);
			(void) hash_search(undone, &key, HASH_ENTER, NULL);
		}
		else
			entries[kept++] = entries[i];
	}
	return kept;
}

/*
 * Evidence and decisions of the entries (latest first), as the applier would
 * have them after all of these.
 */
static void
make_links(CdpAsOf *asof, CdpEntry **entries, int n)
{
	CdpGraph   *graph = asof->graph;
	HTAB	   *pairs = CdpAsOfTable("cdp decided pairs", 2 * sizeof(int64), sizeof(Pair));
	int			i,
				j;

	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = entries[i];

		CHECK_FOR_INTERRUPTS();
		for (j = 0; j < entry->nnodes; j++)
		{
			CdpNode    *node = CdpGraphNode(graph, entry->nodes[j]);

			CdpNodeSeen(node, entry->at);
			node->dirty = true;
		}
		if (entry->type == CDP_ENTRY_MERGE || entry->type == CDP_ENTRY_SPLIT)
		{
			int64		key[2] = {Min(entry->nodes[0], entry->nodes[1]),
			Max(entry->nodes[0], entry->nodes[1])};
			Pair	   *pair;
			CdpLink    *link;
			bool		found;

			/* of several about one pair the latest is effective */
			pair = hash_search(pairs, key, HASH_ENTER, &found);
			if (found)
				continue;
			pair->latest = entry;
			if (entry->type == CDP_ENTRY_SPLIT)
			{
				CdpGraphAddCannot(graph, key[0], key[1]);
				continue;
			}
			link = CdpGraphLink(graph, CdpGraphNode(graph, key[0]),
								CdpGraphNode(graph, key[1]), true, &found);
			link->entry = entry->id;
			link->at = entry->at;
			link->tie = entry->tie;
			continue;
		}
		if (entry->type == CDP_ENTRY_DETACH)
		{
			CdpGraphAddDetached(graph, entry->nodes[0], entry->at, entry->tie);
			continue;
		}
		for (j = 1; j < entry->nnodes; j++)
		{
			bool		found;
			CdpLink    *link = CdpGraphLink(graph,
											CdpGraphNode(graph, entry->nodes[0]),
											CdpGraphNode(graph, entry->nodes[j]),
											false, &found);

			/* from the latest to the earliest */
			CdpLinkSeen(link, entry->at, entry->tie);
			if (found && !CdpGraphEvidenceCounts(graph, link, entry->at, entry->tie))
				continue;
			link->entry = entry->id;
			link->at = entry->at;
			link->tie = entry->tie;
			link->ord = j;
		}
	}
}

/*
 * Is the identifier hidden from the session's user, who sees some profiles
 * only?  What belongs to nobody now is hidden from him too.
 */
bool
CdpAsOfHidden(const CdpIdentifier *raw)
{
	return CdpVisibleHook != NULL && !CdpVisibleHook(0) &&
		CdpProfileOfIdentifier(-1, raw) == 0;
}

CdpNode *
CdpAsOfNode(CdpAsOf *asof, CdpIdentifier *canonical, CdpKind *kind)
{
	CdpGraphWant(asof->graph, canonical);
	CdpGraphLoadWanted(asof->graph);
	return CdpGraphNodeOf(asof->graph, canonical, kind);
}

CdpEntry **
CdpAsOfCounting(CdpAsOf *asof, int *n)
{
	CdpEntry  **entries = counting_entries(asof, n);

	*n = drop_undone(entries, *n);
	make_links(asof, entries, *n);
	for (int i = 0; i < asof->graph->nactive; i++)
		asof->graph->active[i]->counted_seen = asof->graph->active[i]->first_seen;
	return entries;
}

/*
 * The nodes that were one person with the identifier; NULL when it was not
 * known.  The ring of the result has nodes that are gone in it.  *entries are
 * those of the cluster that count, latest first.
 */
CdpNode *
CdpAsOfComponent(CdpAsOf *asof, const CdpIdentifier *raw, CdpEntry ***entries, int *n)
{
	CdpIdentifier *canonical;
	CdpKind    *kind;
	CdpNode    *start;

	(void) CdpCanonicalise(asof->kinds, raw, &canonical, &kind);
	if (canonical == NULL || CdpAsOfHidden(raw))
		return NULL;
	start = CdpAsOfNode(asof, canonical, kind);
	CdpAsOfCollect(asof, &start, 1);
	*entries = CdpAsOfCounting(asof, n);
	if (start->first_seen == DT_NOEND)
		return NULL;
	CdpGraphReplayDirty(asof->graph);
	return CdpNodeRoot(start);
}

/*
 * While a change of the rules is on its way, some entries are in the tables by
 * what they meant before, and whom a tracking plan has held is in none of them.
 * *changing: there is one.
 */
static bool
read_by_these_rules(CdpKindSet *kinds, bool *changing)
{
	uint64		n = CdpRun(&changes_of_rules, NULL, NULL);
	int64	   *changes = palloc(sizeof(int64) * Max(n, 1));
	uint64		i;

	for (i = 0; i < n; i++)
		changes[i] = CdpCellInt8(i, 1);
	SPI_freetuptable(SPI_tuptable);
	*changing = n > 0;
	for (i = 0; i < n; i++)
		if (!CdpKindSetsReadAlike(CdpKindSetBefore(changes[i]), kinds) ||
			!CdpPlanSetsAlike(CdpPlanSetBefore(changes[i]), CdpPlanSetNow()))
			return false;
	return true;
}

/* ---- SQL ---- */

void
CdpAsOfEmpty(CdpAsOf *asof)
{
	asof->items = CdpAsOfTable("cdp entries as of", 2 * sizeof(int64), sizeof(CdpLogItem));
	asof->members = CdpAsOfTable("cdp nodes as of", sizeof(int64), sizeof(CdpMember));
	asof->graph = CdpGraphBegin(asof->kinds, 1, 0, 0);
	asof->graph->sealed = true;
	asof->fresh = asof->pending = asof->sought = NIL;
	asof->walked = 0;
}

CdpAsOf *
CdpAsOfBegin(TimestampTz at, TimestampTz known_at)
{
	CdpAsOf	   *asof = palloc0(sizeof(CdpAsOf));
	TimestampTz from;

	asof->at = at;
	asof->known_at = known_at;
	asof->kinds = CdpKindSetAt(asof->known_at, &asof->by_index);
	if (!read_by_these_rules(asof->kinds, &asof->changing))
		asof->by_index = false;
	if (known_at != DT_NOEND)
		CdpGuardsSet(known_at);
	asof->cursors = CdpCursorsLoad();
	CdpIsolatedLoad(CdpApplierGlance(NULL));
	CdpAsOfEmpty(asof);

	if (CdpRun(&history_from, NULL, NULL) == 1)
	{
		from = CdpCellInt8(0, 1);
		if (asof->at < from || asof->known_at < from)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("identities before %s are not known any more",
							timestamptz_to_str(from)),
					 errhint("See the setting cdp.history_retention.")));
	}
	SPI_freetuptable(SPI_tuptable);
	return asof;
}

static CdpAsOf *
begin(FunctionCallInfo fcinfo)
{
	return CdpAsOfBegin(PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1),
						PG_ARGISNULL(2) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(2));
}

static Datum
names_of(CdpNode *root)
{
	CdpNode    *node = root;
	Datum	   *names;
	int			n = 0;

	names = palloc(sizeof(Datum) * root->size);
	do
	{
		if (node->first_seen != DT_NOEND)
			names[n++] = PointerGetDatum(node->identifier);
		node = node->next;
	} while (node != root);
	return CdpVarlenaArray(names, NULL, n, TEXTOID);
}

/*
 * The number of the profile, 0 when none of its identifiers has ever had one.
 */
int64
CdpAsOfNumber(CdpNode *root)
{
	Datum		arg = names_of(root);
	bool		isnull;
	Datum		value;

	CdpRun(&smallest_number, &arg, NULL);
	value = CdpCell(0, 1, &isnull);
	return isnull ? 0 : DatumGetInt64(value);
}

/*
 * An identifier of the profile that the number stood for; NULL when unknown.
 */
CdpIdentifier *
CdpAsOfIdentifierOf(int64 profile_id)
{
	Datum		arg = Int64GetDatum(profile_id);
	CdpIdentifier *identifier = NULL;

	if (CdpRun(&identifier_of, &arg, NULL) == 1)
		identifier = CdpCellVarlena(0, 1, CurrentMemoryContext);
	SPI_freetuptable(SPI_tuptable);
	return identifier;
}

/*
 * The read-only statements of a call see what the calling query sees.
 */
void
CdpAsOfBeginCall(CdpAsOfCall *call)
{
	call->nest_level = NewGUCNestLevel();
	CdpBecomeOwner(&call->user);
	CdpPinPlans();
	SPI_connect();
	call->context = AllocSetContextCreate(CurrentMemoryContext, "cdp as of",
										  ALLOCSET_DEFAULT_SIZES);
	call->old = MemoryContextSwitchTo(call->context);
}

void
CdpAsOfEndCall(CdpAsOfCall *call)
{
	MemoryContextSwitchTo(call->old);
	MemoryContextDelete(call->context);
	SPI_finish();
	CdpRestoreUser(&call->user);
	AtEOXact_GUC(false, call->nest_level);
}

Datum
CdpAsOfJson(FunctionCallInfo fcinfo, Jsonb *(*make)(FunctionCallInfo fcinfo))
{
	MemoryContext caller = CurrentMemoryContext;
	CdpAsOfCall call;
	Jsonb *volatile result = NULL;

	CdpAsOfBeginCall(&call);
	PG_TRY();
	{
		Jsonb *json;

		CdpStatementsReadOnly = true;
		json = make(fcinfo);
		if (json != NULL)
		{
			result = MemoryContextAlloc(caller, VARSIZE(json));
			memcpy(result, json, VARSIZE(json));
		}
	}
	PG_FINALLY();
	{
		CdpStatementsReadOnly = false;
	}
	PG_END_TRY();
	CdpAsOfEndCall(&call);
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(result);
}

/*
 * An identifier of a kind that is not registered, and was not then, is a
 * mistake; of one that was not registered then, nothing was known.
 */
void
CdpAsOfCheckKind(CdpAsOf *asof, const CdpIdentifier *raw)
{
	if (!CdpKindLookup(asof->kinds, VARDATA_ANY(raw),
					   CdpIdentifierKindLength(raw))->registered)
		(void) CdpCanonicalArgument(-1, raw);
}

/*
 * cdp.resolve_at(identifier, at, known_at) returns bigint: the profile that the
 * identifier belonged to.
 */
Datum
cdp_resolve_at(PG_FUNCTION_ARGS)
{
	CdpAsOfCall call;
	volatile int64 result = 0;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	CdpAsOfBeginCall(&call);
	PG_TRY();
	{
		CdpAsOf	   *asof;
		CdpNode    *root;
		CdpEntry  **entries;
		int			n;

		CdpStatementsReadOnly = true;
		asof = begin(fcinfo);
		CdpAsOfCheckKind(asof, PG_GETARG_IDENTIFIER_PP(0));
		root = CdpAsOfComponent(asof, PG_GETARG_IDENTIFIER_PP(0), &entries, &n);
		if (root != NULL)
			result = CdpAsOfNumber(root);
	}
	PG_FINALLY();
	{
		CdpStatementsReadOnly = false;
	}
	PG_END_TRY();
	CdpAsOfEndCall(&call);
	if (result == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(result);
}

static int
by_identifier(const void *a, const void *b)
{
	const CdpNode *x = *(CdpNode *const *) a;
	const CdpNode *y = *(CdpNode *const *) b;
	int			lx = VARSIZE_ANY_EXHDR(x->identifier);
	int			ly = VARSIZE_ANY_EXHDR(y->identifier);
	int			cmp = memcmp(VARDATA_ANY(x->identifier),
							 VARDATA_ANY(y->identifier), Min(lx, ly));

	return cmp != 0 ? cmp : lx - ly;
}

/*
 * The rows of a component, in the order of identifiers.
 */
static void
return_component(ReturnSetInfo *rsinfo, CdpNode *root)
{
	CdpNode   **nodes = palloc(sizeof(CdpNode *) * root->size);
	CdpNode    *node = root;
	int			n = 0;
	int			i;

	do
	{
		if (node->first_seen != DT_NOEND)
			nodes[n++] = node;
		node = node->next;
	} while (node != root);
	qsort(nodes, n, sizeof(CdpNode *), by_identifier);
	for (i = 0; i < n; i++)
	{
		Datum		values[3];
		bool		isnull[3] = {false, false, false};

		values[0] = PointerGetDatum(CdpShownIdentifier((struct varlena *) nodes[i]->identifier));
		values[1] = TimestampTzGetDatum(nodes[i]->first_seen);
		values[2] = TimestampTzGetDatum(nodes[i]->last_seen);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
}

static Datum
identifiers_at(FunctionCallInfo fcinfo, bool by_profile)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CdpAsOfCall call;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	CdpAsOfBeginCall(&call);
	PG_TRY();
	{
		CdpAsOf	   *asof;
		CdpIdentifier *raw = NULL;
		CdpNode    *root = NULL;
		CdpEntry  **entries;
		int			n;

		CdpStatementsReadOnly = true;
		asof = begin(fcinfo);
		if (by_profile)
			raw = CdpAsOfIdentifierOf(PG_GETARG_INT64(0));
		else
		{
			raw = PG_GETARG_IDENTIFIER_PP(0);
			CdpAsOfCheckKind(asof, raw);
		}
		if (raw != NULL)
			root = CdpAsOfComponent(asof, raw, &entries, &n);
		if (root != NULL)
			return_component(rsinfo, root);
	}
	PG_FINALLY();
	{
		CdpStatementsReadOnly = false;
	}
	PG_END_TRY();
	CdpAsOfEndCall(&call);
	return (Datum) 0;
}

/*
 * cdp.identifiers_at(profile_id, at, known_at): the identifiers that the
 * profile had.
 */
Datum
cdp_identifiers_at(PG_FUNCTION_ARGS)
{
	return identifiers_at(fcinfo, true);
}

/*
 * cdp.identifiers_at(identifier, at, known_at): all identifiers of the person.
 */
Datum
cdp_identifiers_of_at(PG_FUNCTION_ARGS)
{
	return identifiers_at(fcinfo, false);
}
