/*-------------------------------------------------------------------------
 *
 * asof_entries.c
 *	  The entries that bear on who somebody was at an earlier time.
 *
 *	  See asof.c.  From the node that is asked about, entries lead to nodes and
 *	  nodes to entries, until nothing new is found.
 *
 * IDENTIFICATION
 *	  src/apply/asof_entries.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "apply/asof.h"
#include "cdp.h"
#include "statement.h"

/* Entries that one question may need. */
#define MAX_ENTRIES		2000000
/* Rows of the log that are looked at together. */
#define CHUNK			10000

/* as CDP_EVENTS_COLUMNS, without what has no bearing on identity */
#define IDENTITY_COLUMNS \
	"e.id, e.message_id, e.source, e.type, e.event, e.identifiers," \
	" CASE WHEN e.type IN ('undo', 'consent') OR e.type = 'identify' AND jsonb_typeof(e.properties) <> 'object'" \
	" OR (SELECT bool_or(p.mode <> 'allow') FROM cdp.plan_definitions p)" \
	" THEN e.properties END, NULL::jsonb, e.occurred_at, e.received_at, e.xid," \
	" e.incarnation"

/* owners of the entries that may name these identifiers */
static CdpStatement find_owners = {
	"WITH me AS MATERIALIZED (SELECT i.node_id FROM (SELECT unnest($1) AS t) AS u"
	" JOIN cdp.identities i ON i.identifier = u.t::cdp.identifier)"
	" SELECT m.node_id FROM me m"
	" UNION SELECT l.b FROM me m JOIN cdp.links l ON l.a = m.node_id"
	" UNION SELECT l.a FROM me m JOIN cdp.links l ON l.b = m.node_id"
	" UNION SELECT d.b FROM me m JOIN cdp.decisions d ON d.a = m.node_id WHERE d.b IS NOT NULL"
	" UNION SELECT d.a FROM me m JOIN cdp.decisions d ON d.b = m.node_id WHERE d.a IS NOT NULL",
	{"text[]"}
};

static CdpStatement owned_entries = {
	"SELECT " IDENTITY_COLUMNS
	" FROM (SELECT unnest($1) AS owner) AS u"
	" CROSS JOIN LATERAL cdp.owned_entries_of(u.owner) n"
	" JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry"
	" AND e.received_at = n.received_at"
	" WHERE n.at <= $2 AND n.received_at <= $3",
	{"int8[]", "timestamptz", "timestamptz"}
};

/* entries that count and are nobody's */
static CdpStatement nobodys_entries = {
	"SELECT " IDENTITY_COLUMNS
	" FROM (SELECT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_evidence v ON v.node_id = 0 AND v.account_id = u.account_id"
	" JOIN cdp.events e ON e.xid = v.xid AND e.id = v.entry"
	" AND e.received_at = v.received_at"
	" WHERE v.at <= $2 AND v.received_at <= $3",
	{"int8[]", "timestamptz", "timestamptz"}
};

static CdpStatement history_entries = {
	"SELECT " IDENTITY_COLUMNS
	" FROM (SELECT unnest($1) AS hash) AS u"
	" JOIN cdp.history_entries h ON h.hash = u.hash"
	" JOIN cdp.events e ON e.xid = h.xid AND e.id = h.entry"
	" AND e.received_at = h.received_at"
	" WHERE h.received_at <= $2",
	{"int8[]", "timestamptz"}
};

static CdpStatement find_copies = {
	"SELECT " IDENTITY_COLUMNS
	" FROM (SELECT unnest($1) AS hash) AS u"
	" JOIN cdp.events e ON cdp.message_hash(e.source, e.message_id) = u.hash"
	" AND e.message_id IS NOT NULL WHERE e.received_at <= $2",
	{"int8[]", "timestamptz"}
};

static CdpStatement whole_log = {
	"SELECT " IDENTITY_COLUMNS " FROM cdp.events e WHERE e.received_at <= $1",
	{"timestamptz"}
};

HTAB *
CdpAsOfTable(const char *name, Size keysize, Size entrysize)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = keysize;
	ctl.entrysize = entrysize;
	ctl.hcxt = CurrentMemoryContext;
	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static bool
in_time(const CdpAsOf *asof, const Datum *values, const bool *isnull)
{
	TimestampTz received_at = DatumGetTimestampTz(values[CDP_EVENTS_RECEIVED_AT]);
	TimestampTz at = CdpEffectiveAt(!isnull[CDP_EVENTS_OCCURRED_AT],
									isnull[CDP_EVENTS_OCCURRED_AT] ? 0 :
									DatumGetTimestampTz(values[CDP_EVENTS_OCCURRED_AT]),
									received_at);

	return at <= asof->at && received_at <= asof->known_at &&
		(asof->unapplied || CdpCursorsApplied(asof->cursors,
						  DatumGetInt32(values[CDP_EVENTS_INCARNATION]),
						  DatumGetInt64(values[CDP_EVENTS_XID]),
						  DatumGetInt64(values[CDP_EVENTS_ID])));
}

/*
 * Take an entry in, unless it is here or has no effect by itself.
 */
void
CdpAsOfTakeEntry(CdpAsOf *asof, CdpEntry *entry, bool proven)
{
	int64		key[2] = {entry->id, entry->xid};
	bool		found;
	CdpLogItem *item = hash_search(asof->items, key, HASH_ENTER, &found);

	if (found)
		return;
	item->proven = proven;
	item->pending = asof->unapplied &&
		!CdpCursorsApplied(asof->cursors, entry->incarnation, entry->xid, entry->id);
	item->best = false;
	item->taken = false;
	item->entry = entry;
	if (!CdpEntryJudge(item->entry))
		return;
	CdpGraphCheck(asof->graph, item->entry, 1);
	if (item->entry->reject_reason != NULL)
		return;
	asof->fresh = lappend(asof->fresh, item);
	if (hash_get_num_entries(asof->items) > MAX_ENTRIES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d entries bear on the question", MAX_ENTRIES),
				 errhint("Ask for an earlier time.")));
}

/*
 * Take a row of the log in, unless it is too late.
 */
static void
take_row(CdpAsOf *asof, Datum *values, bool *isnull, bool proven)
{
	int64		key[2] = {DatumGetInt64(values[CDP_EVENTS_ID]),
	DatumGetInt64(values[CDP_EVENTS_XID])};
	CdpEntry   *entry;
	CdpLogItem *item;

	if (!in_time(asof, values, isnull))
		return;
	item = hash_search(asof->items, key, HASH_FIND, NULL);
	if (item != NULL)
	{
		item->proven |= proven;
		return;
	}
	entry = palloc(sizeof(CdpEntry));
	CdpEntryFromRow(entry, values, isnull);
	CdpAsOfTakeEntry(asof, entry, proven);
}

static void
take_rows(CdpAsOf *asof, bool proven)
{
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		Datum		values[CDP_EVENTS_NATTS];
		bool		isnull[CDP_EVENTS_NATTS];

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
						  values, isnull);
		take_row(asof, values, isnull, proven);
	}
	SPI_freetuptable(SPI_tuptable);
}

static CdpMember *
member_of(CdpAsOf *asof, int64 node)
{
	bool		found;
	CdpMember	   *member = hash_search(asof->members, &node, HASH_ENTER, &found);

	if (!found)
	{
		member->known = member->expanded = false;
		member->items = NIL;
	}
	return member;
}

/*
 * The entry names an identifier of the cluster, or another entry.
 */
static void
take_item(CdpAsOf *asof, CdpLogItem *item)
{
	if (item->taken)
		return;
	item->taken = true;
	asof->sought = lappend(asof->sought, item);
}

static void
make_known(CdpAsOf *asof, CdpMember *member)
{
	ListCell   *lc;

	if (member->known)
		return;
	member->known = true;
	asof->pending = lappend(asof->pending, member);
	foreach(lc, member->items)
		take_item(asof, lfirst(lc));
}

/*
 * Does an entry name what is asked for beside the cluster?
 */
static bool
is_wanted(CdpAsOf *asof, const CdpEntry *entry)
{
	if (asof->wanted == NULL)
		return false;
	for (int i = 0; i < entry->naccounts; i++)
		if (asof->wanted(asof->wanted_arg, entry->accounts[i], NULL))
			return true;
	for (int i = 0; i < entry->nnodes; i++)
	{
		CdpNode    *node = CdpGraphNode(asof->graph, entry->nodes[i]);

		if (asof->wanted(asof->wanted_arg, node->identifier, node->kind))
			return true;
	}
	return false;
}

/*
 * Put new items into the graph, and mark what belongs to the cluster.
 */
static void
add_fresh(CdpAsOf *asof)
{
	ListCell   *lc;
	List	   *fresh = asof->fresh;
	int			i;

	asof->fresh = NIL;
	foreach(lc, fresh)
	{
		CdpLogItem	   *item = lfirst(lc);
		bool		known = CDP_ENTRY_NAMES_NOBODY(item->entry->type);

		CHECK_FOR_INTERRUPTS();
		CdpGraphAdd(asof->graph, item->entry, 1, false);
		for (i = 0; i < item->entry->nnodes; i++)
		{
			CdpMember	   *member = member_of(asof, item->entry->nodes[i]);

			member->items = lappend(member->items, item);
			known |= member->known;
		}
		if (known || is_wanted(asof, item->entry))
			take_item(asof, item);
	}
	list_free(fresh);

	/* all that they name belongs there too; this may take others, at the end */
	for (; asof->walked < list_length(asof->sought); asof->walked++)
	{
		CdpLogItem	   *item = list_nth(asof->sought, asof->walked);

		for (i = 0; i < item->entry->nnodes; i++)
			make_known(asof, member_of(asof, item->entry->nodes[i]));
	}
}

/*
 * Look for the entries that name members of the cluster, by index.
 */
static void
expand_by_index(CdpAsOf *asof, HTAB *owners)
{
	int			n = list_length(asof->pending);
	Datum	   *names = palloc(sizeof(Datum) * n);
	int64	   *hashes = palloc(sizeof(int64) * n);
	int64	   *ids;
	int			nids = 0;
	ListCell   *lc;
	Datum		args[3];
	uint64		r;

	n = 0;
	foreach(lc, asof->pending)
	{
		CdpMember	   *member = lfirst(lc);
		CdpNode    *node = CdpGraphNode(asof->graph, member->id);

		member->expanded = true;
		names[n] = PointerGetDatum(node->identifier);
		hashes[n++] = CdpIdentifierHash(node->identifier);
	}
	list_free(asof->pending);
	asof->pending = NIL;

	args[0] = CdpVarlenaArray(names, NULL, n, TEXTOID);
	CdpRun(&find_owners, args, NULL);
	ids = palloc(sizeof(int64) * Max(SPI_processed, 1));
	for (r = 0; r < SPI_processed; r++)
	{
		int64		id = CdpCellInt8(r, 1);
		bool		found;

		(void) hash_search(owners, &id, HASH_ENTER, &found);
		if (!found)
			ids[nids++] = id;
	}
	SPI_freetuptable(SPI_tuptable);
	if (nids > 0)
	{
		args[0] = CdpInt8Array(ids, nids);
		args[1] = TimestampTzGetDatum(asof->at);
		args[2] = TimestampTzGetDatum(asof->known_at);
		CdpRun(&owned_entries, args, NULL);
		take_rows(asof, true);
	}
	args[0] = CdpInt8Array(hashes, n);
	args[1] = TimestampTzGetDatum(asof->known_at);
	CdpRun(&history_entries, args, NULL);
	take_rows(asof, false);
	pfree(ids);
	pfree(hashes);
	pfree(names);
}

/*
 * Copies of the messages of items taken, and undos of those items.
 */
static void
seek_messages(CdpAsOf *asof)
{
	int			n = list_length(asof->sought);
	int64	   *copies = palloc(sizeof(int64) * n);
	int64	   *targets = palloc(sizeof(int64) * n);
	int			ncopies = 0;
	int			ntargets = 0;
	ListCell   *lc;
	Datum		args[2];

	foreach(lc, asof->sought)
	{
		CdpLogItem	   *item = lfirst(lc);
		CdpEntry   *entry = item->entry;
		text	   *id = entry->message_id;

		if (!item->proven && id != NULL)
			copies[ncopies++] = CdpMessageHash(entry->source, id);
		if (id == NULL)
			id = cstring_to_text(psprintf("#%lld", (long long) entry->id));
		targets[ntargets++] = CdpMessageHash(entry->source, id);
	}
	list_free(asof->sought);
	asof->sought = NIL;
	asof->walked = 0;

	args[1] = TimestampTzGetDatum(asof->known_at);
	if (ncopies > 0)
	{
		args[0] = CdpInt8Array(copies, ncopies);
		CdpRun(&find_copies, args, NULL);
		take_rows(asof, false);
	}
	if (asof->by_index)
	{
		args[0] = CdpInt8Array(targets, ntargets);
		CdpRun(&history_entries, args, NULL);
		take_rows(asof, false);
	}
	pfree(copies);
	pfree(targets);
}

/*
 * Does the entry name an identifier whose hash is in the table, or what is asked
 * for beside the cluster?
 */
static bool
names_one(CdpAsOf *asof, HTAB *hashes, Datum identifiers)
{
	ArrayType  *array = DatumGetArrayTypeP(identifiers);
	Datum	   *elems;
	bool	   *nulls;
	int			n;
	int			i;

	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_INT,
					  &elems, &nulls, &n);
	for (i = 0; i < n; i++)
	{
		CdpIdentifier *canonical;
		CdpKind    *kind;
		int64		hash;

		if (nulls[i])
			continue;
		(void) CdpCanonicalise(asof->kinds,
							   (CdpIdentifier *) DatumGetPointer(elems[i]),
							   &canonical, &kind);
		if (canonical == NULL)
			continue;
		hash = CdpIdentifierHash(canonical);
		if (hash_search(hashes, &hash, HASH_FIND, NULL) != NULL ||
			(asof->wanted != NULL && asof->wanted(asof->wanted_arg, canonical, kind)))
			return true;
	}
	return false;
}

/*
 * Look for the entries that name members of the cluster, and for undos, by
 * reading the log.
 */
static void
expand_by_reading(CdpAsOf *asof, HTAB *hashes)
{
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext,
												"cdp log", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	Datum		arg = TimestampTzGetDatum(asof->known_at);
	Portal		portal;
	int			sown = 0;

	CdpPrepare(&whole_log);
	portal = SPI_cursor_open(NULL, whole_log.plan, &arg, NULL, true);
	for (;;)
	{
		uint64		i;

		CHECK_FOR_INTERRUPTS();
		add_fresh(asof);
		for (; sown < list_length(asof->pending); sown++)
		{
			CdpMember	   *member = list_nth(asof->pending, sown);
			int64		hash = CdpIdentifierHash(CdpGraphNode(asof->graph,
															  member->id)->identifier);

			(void) hash_search(hashes, &hash, HASH_ENTER, NULL);
		}
		old = MemoryContextSwitchTo(chunk);
		if (CdpFetchHere(portal, CHUNK) == 0)
		{
			SPI_freetuptable(SPI_tuptable);
			MemoryContextSwitchTo(old);
			break;
		}
		for (i = 0; i < SPI_processed; i++)
		{
			Datum		values[CDP_EVENTS_NATTS];
			bool		isnull[CDP_EVENTS_NATTS];
			CdpEntryType type;

			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
							  values, isnull);
			if (isnull[CDP_EVENTS_TYPE])
				continue;
			type = CdpEntryTypeFromText(DatumGetTextPP(values[CDP_EVENTS_TYPE]));
			if (!CDP_ENTRY_NAMES_NOBODY(type) &&
				(isnull[CDP_EVENTS_IDENTIFIERS] ||
				 !names_one(asof, hashes, values[CDP_EVENTS_IDENTIFIERS])))
				continue;
			MemoryContextSwitchTo(old);
			take_row(asof, values, isnull, false);
			MemoryContextSwitchTo(chunk);
		}
		SPI_freetuptable(SPI_tuptable);
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
	}
	SPI_cursor_close(portal);
	MemoryContextDelete(chunk);
	add_fresh(asof);
}

/*
 * Until nothing new is found.
 */
static void
collect(CdpAsOf *asof)
{
	HTAB	   *found = CdpAsOfTable("cdp found", sizeof(int64), sizeof(int64));
	int			before;

	while (asof->by_index && (asof->pending != NIL || asof->sought != NIL))
	{
		CHECK_FOR_INTERRUPTS();
		if (asof->pending != NIL)
			expand_by_index(asof, found);
		else
			seek_messages(asof);
		add_fresh(asof);
	}
	if (asof->by_index)
		return;

	/* once more as long as the last time has found something new */
	do
	{
		before = list_length(asof->pending);
		expand_by_reading(asof, found);
		while (asof->sought != NIL)
		{
			seek_messages(asof);
			add_fresh(asof);
		}
	} while (list_length(asof->pending) > before);
}

/*
 * Does the node belong to what has been collected?
 */
bool
CdpAsOfKnows(CdpAsOf *asof, const CdpNode *node)
{
	CdpMember  *member = hash_search(asof->members, &node->id, HASH_FIND, NULL);

	return member != NULL && member->known;
}

/*
 * Collect the entries of the clusters around these nodes.
 */
void
CdpAsOfCollect(CdpAsOf *asof, CdpNode **starts, int n)
{
	for (int i = 0; i < n; i++)
		make_known(asof, member_of(asof, starts[i]->id));
	collect(asof);
}

void
CdpAsOfCollectNaming(CdpAsOf *asof, const int64 *accounts, int naccounts,
					 const int64 *hashes, int nhashes)
{
	Datum		args[3];

	if (asof->by_index)
	{
		args[0] = CdpInt8Array(accounts, naccounts);
		args[1] = TimestampTzGetDatum(asof->at);
		args[2] = TimestampTzGetDatum(asof->known_at);
		CdpRun(&nobodys_entries, args, NULL);
		take_rows(asof, true);
		args[0] = CdpInt8Array(hashes, nhashes);
		args[1] = TimestampTzGetDatum(asof->known_at);
		CdpRun(&history_entries, args, NULL);
		take_rows(asof, false);
		add_fresh(asof);
	}
	collect(asof);
}
