/*-------------------------------------------------------------------------
 *
 * decision.c
 *	  Merges, splits and detaches by hand.
 *
 *	  All of them are entries of the log, kept in cdp.decisions.  What an undo
 *	  has taken out does not come here as an entry (apply/undo.c); its row stays,
 *	  without nodes, for who wants to read what was decided.  For one pair of
 *	  identifiers only the latest merge or split is effective: an effective merge
 *	  is evidence, an effective split a cannot-link that holds for evidence of any
 *	  time.  A detach takes an identifier out: evidence that is earlier does not
 *	  join it with anything.
 *
 * IDENTIFICATION
 *	  src/identity/decision.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* Above this number, cannot-links and detaches are loaded for the nodes at hand only. */
#define CANNOT_ALL_MAX	1000

typedef struct Decision
{
	int64		entry;			/* hash key */
	CdpEntryType type;
	text	   *source;
	text	   *message_id;
	int64		a;				/* node numbers, a < b; b is 0 for a detach */
	int64		b;				/* both are 0 when it is undone */
	TimestampTz at;
	text	   *tie;
	int64		xid;
	bool		on_disk;
	int64		old_a;			/* as the row has them */
	int64		old_b;
	bool		was_effective;
	bool		effective;
	bool		again;			/* an entry of this batch says so */
} Decision;

#define DECISION_COLUMNS \
	"d.entry, d.source, d.message_id, d.type, d.a, d.b, d.at, d.tie," \
	" d.effective, d.xid"

static CdpStatement load_pairs = {
	"SELECT " DECISION_COLUMNS " FROM (SELECT unnest($1) AS a, unnest($2) AS b) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.decisions d WHERE d.a = u.a AND d.b = u.b OFFSET 0) AS d",
	{"int8[]", "int8[]"}
};

static CdpStatement load_entries = {
	"SELECT " DECISION_COLUMNS " FROM (SELECT unnest($1) AS entry) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.decisions d WHERE d.entry = u.entry OFFSET 0) AS d",
	{"int8[]"}
};

static CdpStatement delete_entries = {
	"DELETE FROM cdp.decisions d USING unnest($1) AS u (entry)"
	" WHERE d.entry = u.entry",
	{"int8[]"}
};

static CdpStatement upsert_decisions = {
	"INSERT INTO cdp.decisions AS d"
	" (entry, source, message_id, type, a, b, at, tie, effective, xid)"
	" SELECT u.entry, u.source, u.message_id, u.type, nullif(u.a, 0), nullif(u.b, 0),"
	" u.at, u.tie, u.effective, u.xid"
	" FROM (SELECT unnest($1) AS entry, unnest($2) AS source,"
	" unnest($3) AS message_id, unnest($4) AS type, unnest($5) AS a,"
	" unnest($6) AS b, unnest($7) AS at, unnest($8) AS tie,"
	" unnest($9) AS effective, unnest($10) AS xid) AS u"
	" ON CONFLICT (entry) DO UPDATE SET effective = excluded.effective,"
	" a = excluded.a, b = excluded.b",
	{"int8[]", "text[]", "text[]", "text[]", "int8[]", "int8[]",
	"timestamptz[]", "text[]", "bool[]", "int8[]"}
};

static CdpStatement load_cannot_all = {
	"SELECT d.a, d.b FROM cdp.decisions d"
	" WHERE d.type = 'split' AND d.effective ORDER BY d.a LIMIT $1",
	{"int8"}, "decisions"
};

/*
 * Each node is looked up by the index of its own column: type is written so that
 * decisions_splits, which the planner believes to be nearly empty, is no match where
 * it would be searched from end to end.
 */
static CdpStatement load_cannot_of = {
	"SELECT d.a, d.b FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.decisions d"
	" WHERE d.a = u.node AND d.type = 'split' AND d.effective OFFSET 0) AS d"
	" UNION "
	"SELECT d.a, d.b FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.decisions d"
	" WHERE d.b = u.node AND d.type || '' = 'split' AND d.effective OFFSET 0) AS d",
	{"int8[]"}
};

static CdpStatement load_detached_all = {
	"SELECT d.a, d.at, d.tie FROM cdp.decisions d"
	" WHERE d.type = 'detach' AND d.effective ORDER BY d.a LIMIT $1",
	{"int8"}, "decisions"
};

static CdpStatement load_detached_of = {
	"SELECT d.a, d.at, d.tie FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.decisions d"
	" WHERE d.a = u.node AND d.type = 'detach' AND d.effective OFFSET 0) AS d",
	{"int8[]"}
};

static const char *
type_name(CdpEntryType type)
{
	return type == CDP_ENTRY_MERGE ? "merge"
		: type == CDP_ENTRY_SPLIT ? "split" : "detach";
}

/*
 * Take rows of DECISION_COLUMNS in.
 */
static void
load_rows(HTAB *decisions, MemoryContext context)
{
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		int64		entry = CdpCellInt8(i, 1);
		bool		found;
		Decision   *d = hash_search(decisions, &entry, HASH_ENTER, &found);
		bool		isnull;
		Datum		value;

		if (found && d->on_disk)
			continue;
		if (!found)
		{
			memset((char *) d + sizeof(int64), 0, sizeof(Decision) - sizeof(int64));
			d->source = CdpCellVarlena(i, 2, context);
			d->message_id = CdpCellVarlena(i, 3, context);
			d->type = CdpEntryTypeFromText(CdpCellVarlena(i, 4, context));
			d->at = CdpCellInt8(i, 7);
			d->tie = CdpCellVarlena(i, 8, context);
			d->xid = CdpCellInt8(i, 10);
		}
		value = CdpCell(i, 5, &isnull);
		d->old_a = isnull ? 0 : DatumGetInt64(value);
		value = CdpCell(i, 6, &isnull);
		d->old_b = isnull ? 0 : DatumGetInt64(value);
		if (!found)
		{
			d->a = d->old_a;
			d->b = d->old_b;
		}
		d->was_effective = DatumGetBool(CdpCell(i, 9, &isnull));
		d->on_disk = true;
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * What an undo calls the entry.
 */
text *
CdpEntryMessageId(const CdpEntry *entry)
{
	if (entry->message_id != NULL)
		return entry->message_id;
	return cstring_to_text(psprintf("#%lld", (long long) entry->id));
}

static void
add_entry(HTAB *decisions, CdpEntry *entry)
{
	bool		found;
	Decision   *d = hash_search(decisions, &entry->id, HASH_ENTER, &found);

	if (found)
		return;
	memset((char *) d + sizeof(int64), 0, sizeof(Decision) - sizeof(int64));
	d->type = entry->type;
	d->source = entry->source;
	d->message_id = CdpEntryMessageId(entry);
	d->at = entry->at;
	d->tie = entry->tie;
	d->xid = entry->xid;
	d->again = true;
	if (entry->undone)
		return;
	if (entry->type == CDP_ENTRY_DETACH)
		d->a = entry->nodes[0];
	else
	{
		d->a = Min(entry->nodes[0], entry->nodes[1]);
		d->b = Max(entry->nodes[0], entry->nodes[1]);
	}
}

/*
 * Load the rows of these entries.
 */
static void
load_listed(HTAB *decisions, List *entries, MemoryContext context)
{
	int64	   *ids = palloc(sizeof(int64) * Max(list_length(entries), 1));
	int			n = 0;
	ListCell   *lc;
	Datum		arg;

	foreach(lc, entries)
		ids[n++] = *(int64 *) lfirst(lc);
	if (n == 0)
		return;
	arg = CdpInt8Array(ids, n);
	CdpRun(&load_entries, &arg, NULL);
	load_rows(decisions, context);
	pfree(ids);
}

/*
 * Load everything else about the same pairs.
 */
static void
load_rivals(HTAB *decisions, MemoryContext context)
{
	HASH_SEQ_STATUS seq;
	Decision   *d;
	long		max = 2 * Max(hash_get_num_entries(decisions), 1);
	int64	   *a = palloc(sizeof(int64) * max);
	int64	   *b = palloc(sizeof(int64) * max);
	int			npairs = 0;
	Datum		args[2];

	hash_seq_init(&seq, decisions);
	while ((d = hash_seq_search(&seq)) != NULL)
	{
		int64		as[2] = {d->a, d->old_a};
		int64		bs[2] = {d->b, d->old_b};
		int			i;

		for (i = 0; i < 2; i++)
		{
			if (bs[i] == 0)
				continue;
			a[npairs] = as[i];
			b[npairs++] = bs[i];
		}
	}
	if (npairs > 0)
	{
		args[0] = CdpInt8Array(a, npairs);
		args[1] = CdpInt8Array(b, npairs);
		CdpRun(&load_pairs, args, NULL);
		load_rows(decisions, context);
	}
}

/*
 * Those about the same pair side by side, the latest first.
 */
static int
by_subject(const void *x, const void *y)
{
	const Decision *a = *(Decision *const *) x;
	const Decision *b = *(Decision *const *) y;

	if (a->a != b->a)
		return a->a < b->a ? -1 : 1;
	if (a->b != b->b)
		return a->b < b->b ? -1 : 1;
	return CdpOrderCompare(b->at, b->tie, a->at, a->tie);
}

/*
 * Judge which decisions are effective.
 */
static int
judge(HTAB *decisions, Decision ***result)
{
	HASH_SEQ_STATUS seq;
	Decision   *d;
	Decision  **all;
	int			n = 0;
	int			i;

	all = palloc(sizeof(Decision *) * Max(hash_get_num_entries(decisions), 1));
	hash_seq_init(&seq, decisions);
	while ((d = hash_seq_search(&seq)) != NULL)
		all[n++] = d;
	qsort(all, n, sizeof(Decision *), by_subject);
	for (i = 0; i < n; i++)
		all[i]->effective = all[i]->a != 0 &&
			(all[i]->b == 0 || i == 0 ||
			 all[i]->a != all[i - 1]->a || all[i]->b != all[i - 1]->b);
	*result = all;
	return n;
}

static bool
has_changed(const Decision *d)
{
	return !d->on_disk || d->effective != d->was_effective ||
		d->a != d->old_a || d->b != d->old_b;
}

static void
write_decisions(Decision **all, int n)
{
	int64	   *entries = palloc(sizeof(int64) * n);
	int64	   *a = palloc(sizeof(int64) * n);
	int64	   *b = palloc(sizeof(int64) * n);
	int64	   *xids = palloc(sizeof(int64) * n);
	TimestampTz *ats = palloc(sizeof(TimestampTz) * n);
	Datum	   *sources = palloc(sizeof(Datum) * n);
	Datum	   *ids = palloc(sizeof(Datum) * n);
	Datum	   *types = palloc(sizeof(Datum) * n);
	Datum	   *ties = palloc(sizeof(Datum) * n);
	Datum	   *effective = palloc(sizeof(Datum) * n);
	int			k = 0;
	int			i;
	Datum		args[10];

	for (i = 0; i < n; i++)
	{
		if (!has_changed(all[i]))
			continue;
		entries[k] = all[i]->entry;
		sources[k] = PointerGetDatum(all[i]->source);
		ids[k] = PointerGetDatum(all[i]->message_id);
		types[k] = PointerGetDatum(cstring_to_text(type_name(all[i]->type)));
		a[k] = all[i]->a;
		b[k] = all[i]->b;
		ats[k] = all[i]->at;
		ties[k] = PointerGetDatum(all[i]->tie);
		effective[k] = BoolGetDatum(all[i]->effective);
		xids[k] = all[i]->xid;
		k++;
	}
	if (k == 0)
		return;
	args[0] = CdpInt8Array(entries, k);
	args[1] = CdpVarlenaArray(sources, NULL, k, TEXTOID);
	args[2] = CdpVarlenaArray(ids, NULL, k, TEXTOID);
	args[3] = CdpVarlenaArray(types, NULL, k, TEXTOID);
	args[4] = CdpInt8Array(a, k);
	args[5] = CdpInt8Array(b, k);
	args[6] = CdpTimestampArray(ats, k);
	args[7] = CdpVarlenaArray(ties, NULL, k, TEXTOID);
	args[8] = CdpVarlenaArray(effective, NULL, k, BOOLOID);
	args[9] = CdpInt8Array(xids, k);
	CdpRun(&upsert_decisions, args, NULL);
}

/*
 * A decision about these nodes has come, gone, or lost its effect.  Small
 * components are replayed.  What a detach changes is found by its links.
 */
static void
mark_nodes(CdpGraph *graph, const Decision *d, int64 a, int64 b, bool gone, List **detached)
{
	int64		ids[2] = {a, b};
	CdpNode    *nodes[2];
	int			i;

	if (a == 0)
		return;
	CdpGraphAddNodes(graph, ids, b != 0 ? 2 : 1);
	for (i = 0; i < (b != 0 ? 2 : 1); i++)
	{
		CdpNode    *node = CdpGraphNode(graph, ids[i]);

		if (node == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a decision names node %lld, which does not exist",
							(long long) ids[i])));
		nodes[i] = node;
	}
	if (b == 0)
	{
		int64	   *copy = palloc(sizeof(int64));

		*copy = a;
		*detached = lappend(*detached, copy);
	}
	else if (!CdpGraphIsLarge(graph, nodes[0]) && !CdpGraphIsLarge(graph, nodes[1]))
		CdpGraphDirty(nodes[0], nodes[1]);
	else
	{
		CdpDecided *decided = palloc(sizeof(CdpDecided));

		decided->merge = d->type == CDP_ENTRY_MERGE;
		decided->gone = gone;
		decided->a = a;
		decided->b = b;
		decided->entry = d->entry;
		decided->at = d->at;
		decided->tie = d->tie;
		graph->verdicts = lappend(graph->verdicts, decided);
	}
}

/*
 * What a decision says now, and what it said before.
 */
static void
mark_change(CdpGraph *graph, const Decision *d, List **detached)
{
	bool		was = d->on_disk && d->was_effective && d->old_a != 0;
	bool		is = d->effective && d->a != 0;

	if (was && is && d->a == d->old_a && d->b == d->old_b)
		return;
	if (was)
		mark_nodes(graph, d, d->old_a, d->old_b, true, detached);
	if (is)
		mark_nodes(graph, d, d->a, d->b, false, detached);
}

List *
CdpGraphDecide(CdpGraph *graph, CdpEntry *entries, int n)
{
	HASHCTL		ctl;
	HTAB	   *decisions;
	Decision  **all;
	List	   *detached = NIL;
	ListCell   *lc;
	int			ndecisions;
	int			i;
	bool		any = graph->withdrawn != NIL || graph->undone != NIL;

	for (i = 0; i < n && !any; i++)
		any = CDP_ENTRY_DECIDES(entries[i].type);
	if (!any)
		return NIL;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Decision);
	ctl.hcxt = graph->context;
	decisions = hash_create("cdp decisions", 64, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (i = 0; i < n; i++)
	{
		if (CDP_ENTRY_DECIDES(entries[i].type) &&
			(entries[i].reject_reason == NULL || entries[i].undone))
			add_entry(decisions, &entries[i]);
	}
	load_listed(decisions, graph->withdrawn, graph->context);
	load_listed(decisions, graph->undone, graph->context);
	if (hash_get_num_entries(decisions) == 0)
		return NIL;
	load_rivals(decisions, graph->context);

	foreach(lc, graph->undone)
	{
		Decision   *d = hash_search(decisions, lfirst(lc), HASH_FIND, NULL);

		if (d != NULL)
			d->a = d->b = 0;
	}
	if (graph->withdrawn != NIL)
	{
		int64	   *ids = palloc(sizeof(int64) * list_length(graph->withdrawn));
		int			nids = 0;
		Datum		arg;

		foreach(lc, graph->withdrawn)
		{
			Decision   *d = hash_search(decisions, lfirst(lc), HASH_FIND, NULL);

			if (d == NULL)
				continue;
			ids[nids++] = d->entry;
			if (d->was_effective)
				mark_nodes(graph, d, d->old_a, d->old_b, true, &detached);
			if (d->again)
			{
				/* read anew: the row is made again */
				d->on_disk = false;
				d->old_a = d->old_b = 0;
				continue;
			}
			(void) hash_search(decisions, lfirst(lc), HASH_REMOVE, NULL);
		}
		arg = CdpInt8Array(ids, nids);
		if (nids > 0)
			CdpRun(&delete_entries, &arg, NULL);
	}

	/* what was loaded before is out of date */
	graph->cannot = NULL;
	graph->cannot_all = false;
	graph->detached = NULL;
	graph->detached_all = false;

	ndecisions = judge(decisions, &all);
	if (ndecisions == 0)
		return detached;
	write_decisions(all, ndecisions);
	for (i = 0; i < ndecisions; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!has_changed(all[i]))
			continue;
		mark_change(graph, all[i], &detached);
	}
	pfree(all);
	return detached;
}

static void
add_cannot(CdpGraph *graph, int64 id, int64 other)
{
	bool		found;
	CdpCannot  *cannot = hash_search(graph->cannot, &id, HASH_ENTER, &found);
	int64	   *copy = palloc(sizeof(int64));

	if (!found)
		cannot->others = NIL;
	*copy = other;
	cannot->others = lappend(cannot->others, copy);
}

/*
 * These two must not be one person.
 */
void
CdpGraphAddCannot(CdpGraph *graph, int64 a, int64 b)
{
	if (graph->cannot == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(int64);
		ctl.entrysize = sizeof(CdpCannot);
		ctl.hcxt = graph->context;
		graph->cannot = hash_create("cdp cannot-links", 64, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	add_cannot(graph, a, b);
	add_cannot(graph, b, a);
}

/*
 * Load the cannot-links that bear on the nodes at hand (all there are, when
 * they are few).
 */
void
CdpGraphLoadCannot(CdpGraph *graph)
{
	Datum		arg = Int64GetDatum(CANNOT_ALL_MAX + 1);
	uint64		i;

	if (graph->cannot_all || graph->sealed)
		return;
	CdpRun(&load_cannot_all, &arg, NULL);
	if (SPI_processed <= CANNOT_ALL_MAX)
		graph->cannot_all = true;
	else
	{
		int64	   *ids;
		int			n;

		CdpGraphActivateDirty(graph, true);
		ids = palloc(sizeof(int64) * Max(graph->nactive, 1));
		for (n = 0; n < graph->nactive; n++)
			ids[n] = graph->active[n]->id;
		arg = CdpInt8Array(ids, n);
		SPI_freetuptable(SPI_tuptable);
		CdpRun(&load_cannot_of, &arg, NULL);
		pfree(ids);
	}

	graph->cannot = NULL;
	for (i = 0; i < SPI_processed; i++)
		CdpGraphAddCannot(graph, CdpCellInt8(i, 1), CdpCellInt8(i, 2));
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Evidence earlier than this does not join the node with anything.
 */
void
CdpGraphAddDetached(CdpGraph *graph, int64 id, TimestampTz at, text *tie)
{
	bool		found;
	CdpDetached *detached;

	if (graph->detached == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(int64);
		ctl.entrysize = sizeof(CdpDetached);
		ctl.hcxt = graph->context;
		graph->detached = hash_create("cdp detaches", 64, &ctl,
									  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	detached = hash_search(graph->detached, &id, HASH_ENTER, &found);

	/* of several the latest */
	if (!found || CdpOrderCompare(at, tie, detached->at, detached->tie) > 0)
	{
		detached->at = at;
		detached->tie = tie;
	}
}

/*
 * Load the detaches that bear on the nodes at hand (all there are, when they
 * are few).
 */
void
CdpGraphLoadDetached(CdpGraph *graph)
{
	Datum		arg = Int64GetDatum(CANNOT_ALL_MAX + 1);
	uint64		i;

	if (graph->detached_all || graph->sealed)
		return;
	CdpRun(&load_detached_all, &arg, NULL);
	if (SPI_processed <= CANNOT_ALL_MAX)
		graph->detached_all = true;
	else
	{
		int64	   *ids = palloc(sizeof(int64) * Max(graph->nactive, 1));
		int			n;

		for (n = 0; n < graph->nactive; n++)
			ids[n] = graph->active[n]->id;
		arg = CdpInt8Array(ids, n);
		SPI_freetuptable(SPI_tuptable);
		CdpRun(&load_detached_of, &arg, NULL);
		pfree(ids);
	}

	graph->detached = NULL;
	for (i = 0; i < SPI_processed; i++)
		CdpGraphAddDetached(graph, CdpCellInt8(i, 1), CdpCellInt8(i, 2),
							(text *) CdpCellVarlena(i, 3, graph->context));
	SPI_freetuptable(SPI_tuptable);
}
