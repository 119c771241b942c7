/*-------------------------------------------------------------------------
 *
 * asof_profile.c
 *	  Profiles at earlier times: cdp.profile_at().
 *
 *	  asof.c says who the person was, and which entries of the cluster count.
 *	  Those that the person's nodes own are read from the log and folded, in
 *	  memory, into states that begin empty; values and segments follow from
 *	  these as of the instant.  fresh.c does the same for entries that have not
 *	  been applied.
 *
 * IDENTIFICATION
 *	  src/apply/asof_profile.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "apply/asof_members.h"
#include "cdp.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_profile_at);

static CdpStatement whole_entries = {
	"SELECT " CDP_EVENTS_COLUMNS ", u.i::int"
	" FROM (SELECT unnest($1) AS xid, unnest($2) AS id, unnest($3) AS received_at,"
	" unnest($4) AS i) AS u"
	" JOIN cdp.events e ON e.xid = u.xid AND e.id = u.id AND e.received_at = u.received_at",
	{"int8[]", "int8[]", "timestamptz[]", "int4[]"}
};

/* the row of a release is found by its number alone: there are few */
static CdpStatement find_released = {
	"SELECT u.i FROM (SELECT unnest($1) AS source, unnest($2) AS message_id,"
	" unnest($3) AS i) AS u"
	" WHERE EXISTS (SELECT FROM cdp.releases r JOIN cdp.events e ON e.id = r.entry"
	" WHERE r.source = u.source AND r.target = u.message_id AND e.type = 'release'"
	" AND e.received_at <= $5 AND cdp.effective_at(e.occurred_at, e.received_at) <= $4)",
	{"text[]", "text[]", "int4[]", "timestamptz", "timestamptz"}
};

static bool
same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/*
 * Which of the entries do not count by the policies of kinds; releases among
 * them, and those that have been applied, let held ones count.
 */
void
CdpAsOfJudge(CdpAsOf *asof, CdpEntry **entries, int n)
{
	CdpEntry  **judged;
	Datum	   *sources;
	Datum	   *messages;
	int32	   *places;
	Datum		args[5];
	int			njudged = 0;
	int			nheld;
	uint64		r;
	int			i,
				j;

	if (asof->graph->npolicies == 0)
		return;
	judged = palloc(sizeof(CdpEntry *) * Max(n, 1));
	for (i = 0; i < n; i++)
		if (entries[i]->nnodes > 1 && !CDP_ENTRY_DECIDES(entries[i]->type))
			judged[njudged++] = entries[i];
	nheld = CdpWithholdByLinks(asof->graph, judged, njudged);
	if (nheld == 0)
		return;

	sources = palloc(sizeof(Datum) * nheld);
	messages = palloc(sizeof(Datum) * nheld);
	places = palloc(sizeof(int32) * nheld);
	nheld = 0;
	for (i = 0; i < njudged; i++)
	{
		CdpEntry   *entry = judged[i];

		if (!entry->held)
			continue;
		for (j = 0; j < n && entry->withheld; j++)
		{
			if (entries[j]->type == CDP_ENTRY_RELEASE &&
				same_text(entries[j]->source, entry->source) &&
				same_text(CdpUndoTarget(entries[j]), CdpEntryMessageId(entry)))
				entry->withheld = false;
		}
		sources[nheld] = PointerGetDatum(entry->source);
		messages[nheld] = PointerGetDatum(CdpEntryMessageId(entry));
		places[nheld++] = i;
	}
	args[0] = CdpVarlenaArray(sources, NULL, nheld, TEXTOID);
	args[1] = CdpVarlenaArray(messages, NULL, nheld, TEXTOID);
	args[2] = CdpInt4Array(places, nheld);
	args[3] = TimestampTzGetDatum(asof->at);
	args[4] = TimestampTzGetDatum(asof->known_at);
	CdpRun(&find_released, args, NULL);
	for (r = 0; r < SPI_processed; r++)
	{
		bool		isnull;

		judged[DatumGetInt32(CdpCell(r, 1, &isnull))]->withheld = false;
	}
	SPI_freetuptable(SPI_tuptable);
}

CdpEntry *
CdpAsOfReadWhole(CdpAsOf *asof, CdpEntry **entries, int n)
{
	CdpEntry   *rows = palloc(sizeof(CdpEntry) * Max(n, 1));
	int64	   *xids = palloc(sizeof(int64) * Max(n, 1));
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	TimestampTz *received = palloc(sizeof(TimestampTz) * Max(n, 1));
	int32	   *places = palloc(sizeof(int32) * Max(n, 1));
	Datum		args[4];
	int			i;

	for (i = 0; i < n; i++)
	{
		xids[i] = entries[i]->xid;
		ids[i] = entries[i]->id;
		received[i] = entries[i]->received_at;
		places[i] = i;
	}
	args[0] = CdpInt8Array(xids, n);
	args[1] = CdpInt8Array(ids, n);
	args[2] = CdpTimestampArray(received, n);
	args[3] = CdpInt4Array(places, n);
	if (CdpRun(&whole_entries, args, NULL) != n)
		elog(ERROR, "an entry that counts is not in the log");
	for (i = 0; i < n; i++)
	{
		Datum		values[CDP_EVENTS_NATTS + 1];
		bool		isnull[CDP_EVENTS_NATTS + 1];
		int			place;

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
						  values, isnull);
		place = DatumGetInt32(values[CDP_EVENTS_NATTS]);
		CdpEntryFromRow(&rows[place], values, isnull);
		(void) CdpEntryJudge(&rows[place]);
		rows[place].owner = entries[place]->owner;
		rows[place].owner_node = entries[place]->owner_node;
	}
	SPI_freetuptable(SPI_tuptable);
	CdpEntriesReadAll(rows, n);
	CdpGraphReadProperties(asof->graph->reading, asof->graph->reading_arg, rows, n);
	return rows;
}

void
CdpAsOfFold(CdpTraitSet *traits, CdpEntry *whole, int n)
{
	CdpContributions *contributions = palloc0(sizeof(CdpContributions) * Max(n, 1));

	CdpTraitsEvaluate(traits, NULL, whole, n, contributions);
	for (int i = 0; i < n; i++)
		CdpNodeFold(whole[i].owner_node->acc, &whole[i], &contributions[i], true);
}

void
CdpAsOfOpen(CdpNode *root, CdpTraitSet *traits, CdpProfileNodes *out)
{
	CdpNode    *node = root;

	memset(out, 0, sizeof(CdpProfileNodes));
	out->nodes = palloc(sizeof(CdpProfileNode) * root->size);
	out->accs = palloc(sizeof(CdpNodeAcc *) * root->size);
	do
	{
		if (node->first_seen != DT_NOEND)
		{
			CdpProfileNode *member = &out->nodes[out->nnodes];

			member->node_id = node->id;
			member->identifier = node->identifier;
			member->first_seen = node->first_seen;
			member->last_seen = node->last_seen;
			node->acc = out->accs[out->nnodes++] = CdpNodeOpen(traits, NULL);
		}
		node = node->next;
	} while (node != root);
}

/*
 * The profile that the component was, from the entries of its cluster that
 * count.
 */
void
CdpAsOfProfile(CdpAsOf *asof, CdpNode *root, CdpEntry **entries, int n,
			   CdpTraitSet *traits, CdpProfileNodes *out)
{
	CdpEntry  **own = palloc(sizeof(CdpEntry *) * Max(n, 1));
	MemoryContext context = CurrentMemoryContext;
	MemoryContext chunk;
	int			nown = 0;
	int			i;

	CdpAsOfOpen(root, traits, out);
	out->profile_id = CdpAsOfNumber(root);
	CdpAsOfJudge(asof, entries, n);
	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = entries[i];

		if (entry->owner != 0 && !entry->withheld && entry->owner_node->acc != NULL)
			own[nown++] = entry;
	}
	/* states are made in the context of their node */
	chunk = AllocSetContextCreate(context, "cdp fold", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(chunk);
	for (i = 0; i < nown; i += CDP_ASOF_CHUNK)
	{
		int			some = Min(CDP_ASOF_CHUNK, nown - i);

		CHECK_FOR_INTERRUPTS();
		CdpAsOfFold(traits, CdpAsOfReadWhole(asof, own + i, some), some);
		MemoryContextReset(chunk);
	}
	MemoryContextSwitchTo(context);
	MemoryContextDelete(chunk);
}

static Jsonb *
read_profile_at(FunctionCallInfo fcinfo)
{
	CdpIdentifier *raw = PG_GETARG_IDENTIFIER_PP(0);
	TimestampTz at = PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1);
	CdpAsOf *asof = CdpAsOfBegin(at, PG_ARGISNULL(2) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(2));
	TimestampTz applied;
	int64 generation;
	CdpProfileNodes nodes;
	CdpAccountsThen then = { 0 };
	CdpProfileValues values;
	CdpTraitSet *traits;
	CdpNode *root;
	CdpEntry **entries;
	int n;

	CdpAsOfCheckKind(asof, raw);
	root = CdpAsOfComponent(asof, raw, &entries, &n);
	if (root == NULL)
		return NULL;
	generation = CdpApplierGlance(&applied);
	traits = CdpTraitSetGet(generation);
	CdpAsOfProfile(asof, root, entries, n, traits, &nodes);
	then.accounts = CdpAsOfAccounts(asof, generation, root, entries, n, &then.naccounts);
	if (then.naccounts > 0 && CdpSegmentSetGet(generation, traits)->primary &&
		CdpAsOfAccountValues(asof, then.accounts[0], &values))
		then.primary = &values;
	return CdpProfileJson(generation, &nodes, &then,
						  TIMESTAMP_NOT_FINITE(at) ? CdpReadInstant(applied) : at);
}

/*
 * cdp.profile_at(identifier, at, known_at) returns jsonb: the profile that
 * cdp.profile() would have shown then.
 */
Datum
cdp_profile_at(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	return CdpAsOfJson(fcinfo, read_profile_at);
}
