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
 *	  the kinds that were in force at known_at.
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
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_resolve_at);
PG_FUNCTION_INFO_V1(cdp_identifiers_at);
PG_FUNCTION_INFO_V1(cdp_identifiers_of_at);

/* Entries that one question may need. */
#define MAX_ENTRIES		2000000
/* Rows of the log that are looked at together. */
#define CHUNK			10000

/* An entry of the log that may bear on the question. */
typedef struct LogItem
{
	int64		id;				/* hash key, with xid */
	int64		xid;
	CdpEntry   *entry;
	bool		proven;			/* counts now, so no copy of it is better */
	bool		best;			/* of the copies of its message the one that counts */
	bool		taken;			/* names an identifier of the cluster */
} LogItem;

/* A node of the sealed graph. */
typedef struct Member
{
	int64		id;				/* hash key */
	bool		known;			/* belongs to the cluster */
	bool		expanded;		/* the entries that name it have been looked for */
	List	   *items;			/* those found so far */
} Member;

/* What the copies of a message, or undos of it, have in common. */
typedef struct MessageKey
{
	text	   *source;
	text	   *message_id;
} MessageKey;

typedef struct Message
{
	MessageKey	key;			/* hash key */
	LogItem	   *item;
} Message;

typedef struct Pair
{
	int64		a;				/* hash key, with b */
	int64		b;
	CdpEntry   *latest;			/* decision that is active */
} Pair;

typedef struct AsOf
{
	TimestampTz at;
	TimestampTz known_at;
	CdpKindSet *kinds;
	bool		by_index;		/* the present state leads to all entries */
	CdpCursorSet *cursors;
	CdpGraph   *graph;
	HTAB	   *items;
	HTAB	   *members;
	List	   *fresh;			/* items that are not in the graph yet */
	List	   *pending;		/* members that are known and not expanded */
	List	   *sought;			/* items whose copies and undos have not been sought */
	int			walked;			/* those of them whose identifiers are known */
} AsOf;

/* as CDP_EVENTS_COLUMNS, without what has no bearing on identity */
#define IDENTITY_COLUMNS \
	"e.id, e.message_id, e.source, e.type, e.event, e.identifiers," \
	" CASE WHEN e.type = 'undo' OR e.type = 'identify' AND jsonb_typeof(e.properties) <> 'object'" \
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

static HTAB *
table_of(const char *name, Size keysize, Size entrysize)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = keysize;
	ctl.entrysize = entrysize;
	ctl.hcxt = CurrentMemoryContext;
	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* ---- finding entries ---- */

static bool
in_time(const AsOf *asof, const Datum *values, const bool *isnull)
{
	TimestampTz received_at = DatumGetTimestampTz(values[CDP_EVENTS_RECEIVED_AT]);
	TimestampTz at = CdpEffectiveAt(!isnull[CDP_EVENTS_OCCURRED_AT],
									isnull[CDP_EVENTS_OCCURRED_AT] ? 0 :
									DatumGetTimestampTz(values[CDP_EVENTS_OCCURRED_AT]),
									received_at);

	return at <= asof->at && received_at <= asof->known_at &&
		CdpCursorsApplied(asof->cursors,
						  DatumGetInt32(values[CDP_EVENTS_INCARNATION]),
						  DatumGetInt64(values[CDP_EVENTS_XID]),
						  DatumGetInt64(values[CDP_EVENTS_ID]));
}

/*
 * Take a row of the log in, unless it is here, too late, or has no effect by
 * itself.
 */
static void
take_row(AsOf *asof, Datum *values, bool *isnull, bool proven)
{
	int64		key[2] = {DatumGetInt64(values[CDP_EVENTS_ID]),
	DatumGetInt64(values[CDP_EVENTS_XID])};
	bool		found;
	LogItem	   *item;

	if (!in_time(asof, values, isnull))
		return;
	item = hash_search(asof->items, key, HASH_ENTER, &found);
	if (found)
	{
		item->proven |= proven;
		return;
	}
	item->proven = proven;
	item->best = false;
	item->taken = false;
	item->entry = palloc(sizeof(CdpEntry));
	CdpEntryFromRow(item->entry, values, isnull);
	if (!CdpEntryCheck(item->entry))
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

static void
take_rows(AsOf *asof, bool proven)
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

static Member *
member_of(AsOf *asof, int64 node)
{
	bool		found;
	Member	   *member = hash_search(asof->members, &node, HASH_ENTER, &found);

	if (!found)
	{
		member->known = member->expanded = false;
		member->items = NIL;
	}
	return member;
}

/*
 * The entry names an identifier of the cluster, or is an undo.
 */
static void
take_item(AsOf *asof, LogItem *item)
{
	if (item->taken)
		return;
	item->taken = true;
	asof->sought = lappend(asof->sought, item);
}

static void
make_known(AsOf *asof, Member *member)
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
 * Put new items into the graph, and mark what belongs to the cluster.
 */
static void
add_fresh(AsOf *asof)
{
	ListCell   *lc;
	List	   *fresh = asof->fresh;
	int			i;

	asof->fresh = NIL;
	foreach(lc, fresh)
	{
		LogItem	   *item = lfirst(lc);
		bool		known = item->entry->type == CDP_ENTRY_UNDO;

		CHECK_FOR_INTERRUPTS();
		CdpGraphAdd(asof->graph, item->entry, 1, false);
		for (i = 0; i < item->entry->nnodes; i++)
		{
			Member	   *member = member_of(asof, item->entry->nodes[i]);

			member->items = lappend(member->items, item);
			known |= member->known;
		}
		if (known)
			take_item(asof, item);
	}
	list_free(fresh);

	/* all that they name belongs there too; this may take others, at the end */
	for (; asof->walked < list_length(asof->sought); asof->walked++)
	{
		LogItem	   *item = list_nth(asof->sought, asof->walked);

		for (i = 0; i < item->entry->nnodes; i++)
			make_known(asof, member_of(asof, item->entry->nodes[i]));
	}
}

/*
 * Look for the entries that name members of the cluster, by index.
 */
static void
expand_by_index(AsOf *asof, HTAB *owners)
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
		Member	   *member = lfirst(lc);
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
seek_messages(AsOf *asof)
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
		LogItem	   *item = lfirst(lc);
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
 * Does the entry name an identifier whose hash is in the table?
 */
static bool
names_one(AsOf *asof, HTAB *hashes, Datum identifiers)
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
		if (hash_search(hashes, &hash, HASH_FIND, NULL) != NULL)
			return true;
	}
	return false;
}

/*
 * Look for the entries that name members of the cluster, and for undos, by
 * reading the log.
 */
static void
expand_by_reading(AsOf *asof, HTAB *hashes)
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
			Member	   *member = list_nth(asof->pending, sown);
			int64		hash = CdpIdentifierHash(CdpGraphNode(asof->graph,
															  member->id)->identifier);

			(void) hash_search(hashes, &hash, HASH_ENTER, NULL);
		}
		old = MemoryContextSwitchTo(chunk);
		SPI_cursor_fetch(portal, true, CHUNK);
		if (SPI_processed == 0)
		{
			SPI_freetuptable(SPI_tuptable);
			MemoryContextSwitchTo(old);
			break;
		}
		for (i = 0; i < SPI_processed; i++)
		{
			Datum		values[CDP_EVENTS_NATTS];
			bool		isnull[CDP_EVENTS_NATTS];

			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
							  values, isnull);
			if (isnull[CDP_EVENTS_TYPE] ||
				(CdpEntryTypeFromText(DatumGetTextPP(values[CDP_EVENTS_TYPE])) != CDP_ENTRY_UNDO &&
				 (isnull[CDP_EVENTS_IDENTIFIERS] ||
				  !names_one(asof, hashes, values[CDP_EVENTS_IDENTIFIERS]))))
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
 * Collect the entries of the cluster around a node.
 */
static void
collect(AsOf *asof, CdpNode *start)
{
	HTAB	   *found = table_of("cdp found", sizeof(int64), sizeof(int64));

	make_known(asof, member_of(asof, start->id));
	if (asof->by_index)
	{
		while (asof->pending != NIL || asof->sought != NIL)
		{
			CHECK_FOR_INTERRUPTS();
			if (asof->pending != NIL)
				expand_by_index(asof, found);
			else
				seek_messages(asof);
			add_fresh(asof);
		}
		return;
	}

	/* once more as long as the last time has found something new */
	while (asof->pending != NIL)
	{
		int			before = list_length(asof->pending);

		expand_by_reading(asof, found);
		while (asof->sought != NIL)
		{
			seek_messages(asof);
			add_fresh(asof);
		}
		if (list_length(asof->pending) == before)
			break;
	}
}

/* ---- what they add up to ---- */

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
 * The entries that are neither rejected nor outdone by a copy.
 */
static CdpEntry **
counting_entries(AsOf *asof, int *n)
{
	HTAB	   *messages = message_table();
	CdpEntry  **entries;
	HASH_SEQ_STATUS seq;
	LogItem	   *item;

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
		if (found && (message->item->proven ||
					  !(item->proven || better(item->entry, message->item->entry))))
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
make_links(AsOf *asof, CdpEntry **entries, int n)
{
	CdpGraph   *graph = asof->graph;
	HTAB	   *pairs = table_of("cdp decided pairs", 2 * sizeof(int64), sizeof(Pair));
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
 * The nodes that were one person with the identifier; NULL when it was not
 * known.  The ring of the result has nodes that are gone in it.
 */
static CdpNode *
component_at(AsOf *asof, const CdpIdentifier *raw)
{
	CdpIdentifier *canonical;
	CdpKind    *kind;
	CdpNode    *start;
	CdpEntry  **entries;
	int			n;
	int			i;

	(void) CdpCanonicalise(asof->kinds, raw, &canonical, &kind);
	if (canonical == NULL)
		return NULL;
	CdpGraphWant(asof->graph, canonical);
	CdpGraphLoadWanted(asof->graph);
	start = CdpGraphNodeOf(asof->graph, canonical, kind);
	collect(asof, start);
	entries = counting_entries(asof, &n);
	n = drop_undone(entries, n);
	make_links(asof, entries, n);
	for (i = 0; i < asof->graph->nactive; i++)
		asof->graph->active[i]->counted_seen = asof->graph->active[i]->first_seen;
	if (start->first_seen == DT_NOEND)
		return NULL;
	CdpGraphReplayDirty(asof->graph);
	return CdpNodeRoot(start);
}

/* ---- SQL ---- */

static AsOf *
begin(FunctionCallInfo fcinfo)
{
	AsOf	   *asof = palloc0(sizeof(AsOf));
	TimestampTz from;

	asof->at = PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1);
	asof->known_at = PG_ARGISNULL(2) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(2);
	asof->kinds = CdpKindSetAt(asof->known_at, &asof->by_index);
	asof->cursors = CdpCursorsLoad();
	asof->items = table_of("cdp entries as of", 2 * sizeof(int64), sizeof(LogItem));
	asof->members = table_of("cdp nodes as of", sizeof(int64), sizeof(Member));
	asof->graph = CdpGraphBegin(asof->kinds, 1, 0, 0);
	asof->graph->sealed = true;

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
 * What a call needs around it; the read-only statements see what the calling
 * query sees.
 */
typedef struct Call
{
	CdpUserContext user;
	MemoryContext context;
	MemoryContext old;
} Call;

static void
begin_call(Call *call)
{
	CdpBecomeOwner(&call->user);
	CdpPinPlans();
	SPI_connect();
	call->context = AllocSetContextCreate(CurrentMemoryContext, "cdp as of",
										  ALLOCSET_DEFAULT_SIZES);
	call->old = MemoryContextSwitchTo(call->context);
}

static void
end_call(Call *call)
{
	MemoryContextSwitchTo(call->old);
	MemoryContextDelete(call->context);
	SPI_finish();
	CdpRestoreUser(&call->user);
}

/*
 * An identifier of a kind that is not registered, and was not then, is a
 * mistake; of one that was not registered then, nothing was known.
 */
static void
check_kind(AsOf *asof, const CdpIdentifier *raw)
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
	Call		call;
	volatile int64 result = 0;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	begin_call(&call);
	PG_TRY();
	{
		AsOf	   *asof;
		CdpNode    *root;

		CdpStatementsReadOnly = true;
		asof = begin(fcinfo);
		check_kind(asof, PG_GETARG_IDENTIFIER_PP(0));
		root = component_at(asof, PG_GETARG_IDENTIFIER_PP(0));
		if (root != NULL)
		{
			Datum		arg = names_of(root);
			bool		isnull;
			Datum		value;

			CdpRun(&smallest_number, &arg, NULL);
			value = CdpCell(0, 1, &isnull);
			if (!isnull)
				result = DatumGetInt64(value);
		}
	}
	PG_FINALLY();
	{
		CdpStatementsReadOnly = false;
	}
	PG_END_TRY();
	end_call(&call);
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

		values[0] = PointerGetDatum(nodes[i]->identifier);
		values[1] = TimestampTzGetDatum(nodes[i]->first_seen);
		values[2] = TimestampTzGetDatum(nodes[i]->last_seen);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
}

static Datum
identifiers_at(FunctionCallInfo fcinfo, bool by_profile)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Call		call;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	begin_call(&call);
	PG_TRY();
	{
		AsOf	   *asof;
		CdpIdentifier *raw = NULL;
		CdpNode    *root;

		CdpStatementsReadOnly = true;
		asof = begin(fcinfo);
		if (by_profile)
		{
			Datum		arg = PG_GETARG_DATUM(0);

			if (CdpRun(&identifier_of, &arg, NULL) == 1)
				raw = CdpCellVarlena(0, 1, CurrentMemoryContext);
			SPI_freetuptable(SPI_tuptable);
		}
		else
		{
			raw = PG_GETARG_IDENTIFIER_PP(0);
			check_kind(asof, raw);
		}
		root = raw != NULL ? component_at(asof, raw) : NULL;
		if (root != NULL)
			return_component(rsinfo, root);
	}
	PG_FINALLY();
	{
		CdpStatementsReadOnly = false;
	}
	PG_END_TRY();
	end_call(&call);
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
