/*-------------------------------------------------------------------------
 *
 * decision.c
 *	  Merges and splits by hand, and their undoing.
 *
 *	  All of them are entries of the log, kept in cdp.decisions.  An entry is
 *	  active unless an active undo that is later targets it; since undos can
 *	  target undos, activity is judged from the latest to the earliest.  For
 *	  one pair of identifiers only the latest active merge or split is
 *	  effective: an effective merge is evidence, an effective split a
 *	  cannot-link that holds for evidence of any time.
 *
 *	  An undo may come before its target does, so both directions are looked
 *	  up.
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

/* Above this number, cannot-links are loaded for the nodes at hand only. */
#define CANNOT_ALL_MAX	1000

typedef struct Decision
{
	int64		entry;			/* hash key */
	CdpEntryType type;
	text	   *source;
	text	   *message_id;
	int64		a;				/* node numbers, a < b; 0 for undo */
	int64		b;
	text	   *target;			/* undo: message id */
	TimestampTz at;
	text	   *tie;
	bool		on_disk;
	bool		was_effective;
	bool		active;
	bool		effective;
	bool		expanded;		/* what it relates to has been loaded */
} Decision;

#define DECISION_COLUMNS \
	"d.entry, d.source, d.message_id, d.type, d.a, d.b, d.target, d.at, d.tie," \
	" d.effective"

static CdpStatement load_undos_of = {
	"SELECT " DECISION_COLUMNS " FROM (SELECT unnest($1) AS source, unnest($2) AS message_id) AS u"
	" JOIN cdp.decisions d ON d.source = u.source AND d.target = u.message_id",
	{"text[]", "text[]"}
};

static CdpStatement load_targets_of = {
	"SELECT " DECISION_COLUMNS " FROM (SELECT unnest($1) AS source, unnest($2) AS target) AS u"
	" JOIN cdp.decisions d ON d.source = u.source AND d.message_id = u.target",
	{"text[]", "text[]"}
};

static CdpStatement load_pairs = {
	"SELECT " DECISION_COLUMNS " FROM (SELECT unnest($1) AS a, unnest($2) AS b) AS u"
	" JOIN cdp.decisions d ON d.a = u.a AND d.b = u.b",
	{"int8[]", "int8[]"}
};

static CdpStatement load_entries = {
	"SELECT " DECISION_COLUMNS " FROM (SELECT unnest($1) AS entry) AS u"
	" JOIN cdp.decisions d ON d.entry = u.entry",
	{"int8[]"}
};

static CdpStatement delete_entries = {
	"DELETE FROM cdp.decisions d USING unnest($1) AS u (entry)"
	" WHERE d.entry = u.entry",
	{"int8[]"}
};

static CdpStatement upsert_decisions = {
	"INSERT INTO cdp.decisions AS d"
	" (entry, source, message_id, type, a, b, target, at, tie, effective)"
	" SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), unnest($8), unnest($9), unnest($10)"
	" ON CONFLICT (entry) DO UPDATE SET effective = excluded.effective",
	{"int8[]", "text[]", "text[]", "text[]", "int8[]", "int8[]", "text[]",
	"timestamptz[]", "text[]", "bool[]"}
};

static CdpStatement load_cannot_all = {
	"SELECT d.a, d.b FROM cdp.decisions d"
	" WHERE d.type = 'split' AND d.effective ORDER BY d.a LIMIT $1",
	{"int8"}
};

static CdpStatement load_cannot_of = {
	"SELECT d.a, d.b FROM (SELECT unnest($1) AS node) AS u"
	" JOIN cdp.decisions d ON d.a = u.node AND d.type = 'split' AND d.effective"
	" UNION "
	"SELECT d.a, d.b FROM (SELECT unnest($1) AS node) AS u"
	" JOIN cdp.decisions d ON d.b = u.node AND d.type = 'split' AND d.effective",
	{"int8[]"}
};

static const char *
type_name(CdpEntryType type)
{
	return type == CDP_ENTRY_MERGE ? "merge"
		: type == CDP_ENTRY_SPLIT ? "split" : "undo";
}

static bool
same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

static bool
later(const Decision *x, const Decision *y)
{
	return CdpOrderCompare(x->at, x->tie, y->at, y->tie) > 0;
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

		if (found)
			continue;
		memset((char *) d + sizeof(int64), 0, sizeof(Decision) - sizeof(int64));
		d->source = CdpCellVarlena(i, 2, context);
		d->message_id = CdpCellVarlena(i, 3, context);
		d->type = CdpEntryTypeFromText(CdpCellVarlena(i, 4, context));
		value = CdpCell(i, 5, &isnull);
		d->a = isnull ? 0 : DatumGetInt64(value);
		value = CdpCell(i, 6, &isnull);
		d->b = isnull ? 0 : DatumGetInt64(value);
		d->target = CdpCellVarlena(i, 7, context);
		d->at = CdpCellInt8(i, 8);
		d->tie = CdpCellVarlena(i, 9, context);
		d->was_effective = DatumGetBool(CdpCell(i, 10, &isnull));
		d->on_disk = true;
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * The message id that an undo names.
 */
static text *
undo_target(CdpEntry *entry)
{
	JsonbValue	value;
	JsonbValue *found;

	if (entry->properties == NULL ||
		!JB_ROOT_IS_OBJECT(entry->properties))
		return NULL;
	found = getKeyJsonValueFromContainer(&entry->properties->root,
										 "entry", 5, &value);
	if (found == NULL || found->type != jbvString)
		return NULL;
	return cstring_to_text_with_len(found->val.string.val,
									found->val.string.len);
}

/*
 * What an undo calls the entry.
 */
static text *
entry_message_id(CdpEntry *entry)
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
	d->message_id = entry_message_id(entry);
	d->at = entry->at;
	d->tie = entry->tie;
	if (entry->type == CDP_ENTRY_UNDO)
		d->target = undo_target(entry);
	else
	{
		d->a = Min(entry->nodes[0], entry->nodes[1]);
		d->b = Max(entry->nodes[0], entry->nodes[1]);
	}
}

/*
 * Load everything that bears on the decisions at hand: others about the same
 * pairs, undos of them, targets of undos.
 */
static void
close_decisions(HTAB *decisions, MemoryContext context)
{
	for (;;)
	{
		HASH_SEQ_STATUS seq;
		Decision   *d;
		long		max = hash_get_num_entries(decisions);
		Datum	   *sources = palloc(sizeof(Datum) * max);
		Datum	   *ids = palloc(sizeof(Datum) * max);
		Datum	   *usources = palloc(sizeof(Datum) * max);
		Datum	   *targets = palloc(sizeof(Datum) * max);
		int64	   *a = palloc(sizeof(int64) * max);
		int64	   *b = palloc(sizeof(int64) * max);
		int			n = 0;
		int			ntargets = 0;
		int			npairs = 0;
		Datum		args[2];

		hash_seq_init(&seq, decisions);
		while ((d = hash_seq_search(&seq)) != NULL)
		{
			if (d->expanded)
				continue;
			d->expanded = true;
			sources[n] = PointerGetDatum(d->source);
			ids[n++] = PointerGetDatum(d->message_id);
			if (d->type == CDP_ENTRY_UNDO)
			{
				usources[ntargets] = PointerGetDatum(d->source);
				targets[ntargets++] = PointerGetDatum(d->target);
			}
			else
			{
				a[npairs] = d->a;
				b[npairs++] = d->b;
			}
		}
		if (n == 0)
			return;
		args[0] = CdpVarlenaArray(sources, NULL, n, TEXTOID);
		args[1] = CdpVarlenaArray(ids, NULL, n, TEXTOID);
		CdpRun(&load_undos_of, args, NULL);
		load_rows(decisions, context);
		if (ntargets > 0)
		{
			args[0] = CdpVarlenaArray(usources, NULL, ntargets, TEXTOID);
			args[1] = CdpVarlenaArray(targets, NULL, ntargets, TEXTOID);
			CdpRun(&load_targets_of, args, NULL);
			load_rows(decisions, context);
		}
		if (npairs > 0)
		{
			args[0] = CdpInt8Array(a, npairs);
			args[1] = CdpInt8Array(b, npairs);
			CdpRun(&load_pairs, args, NULL);
			load_rows(decisions, context);
		}
	}
}

static int
latest_first(const void *x, const void *y)
{
	const Decision *a = *(Decision *const *) x;
	const Decision *b = *(Decision *const *) y;

	return CdpOrderCompare(b->at, b->tie, a->at, a->tie);
}

/*
 * Judge which decisions are active and effective.
 */
static int
judge(HTAB *decisions, Decision ***result)
{
	HASH_SEQ_STATUS seq;
	Decision   *d;
	Decision  **all;
	int			n = 0;
	int			i,
				j;

	all = palloc(sizeof(Decision *) * Max(hash_get_num_entries(decisions), 1));
	hash_seq_init(&seq, decisions);
	while ((d = hash_seq_search(&seq)) != NULL)
		all[n++] = d;
	qsort(all, n, sizeof(Decision *), latest_first);

	for (i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		all[i]->active = true;
		for (j = 0; j < i; j++)
		{
			if (all[j]->type == CDP_ENTRY_UNDO && all[j]->active &&
				later(all[j], all[i]) &&
				same_text(all[j]->source, all[i]->source) &&
				same_text(all[j]->target, all[i]->message_id))
			{
				all[i]->active = false;
				break;
			}
		}
		all[i]->effective = all[i]->active;
		if (all[i]->type == CDP_ENTRY_UNDO || !all[i]->active)
			continue;
		for (j = 0; j < i; j++)
		{
			if (all[j]->effective && all[j]->type != CDP_ENTRY_UNDO &&
				all[j]->a == all[i]->a && all[j]->b == all[i]->b)
			{
				all[i]->effective = false;
				break;
			}
		}
	}
	*result = all;
	return n;
}

static void
write_decisions(Decision **all, int n)
{
	int64	   *entries = palloc(sizeof(int64) * n);
	int64	   *a = palloc(sizeof(int64) * n);
	int64	   *b = palloc(sizeof(int64) * n);
	TimestampTz *ats = palloc(sizeof(TimestampTz) * n);
	Datum	   *sources = palloc(sizeof(Datum) * n);
	Datum	   *ids = palloc(sizeof(Datum) * n);
	Datum	   *types = palloc(sizeof(Datum) * n);
	Datum	   *targets = palloc(sizeof(Datum) * n);
	bool	   *notarget = palloc(sizeof(bool) * n);
	Datum	   *ties = palloc(sizeof(Datum) * n);
	Datum	   *effective = palloc(sizeof(Datum) * n);
	int			k = 0;
	int			i;
	Datum		args[10];

	for (i = 0; i < n; i++)
	{
		if (all[i]->on_disk && all[i]->effective == all[i]->was_effective)
			continue;
		entries[k] = all[i]->entry;
		sources[k] = PointerGetDatum(all[i]->source);
		ids[k] = PointerGetDatum(all[i]->message_id);
		types[k] = PointerGetDatum(cstring_to_text(type_name(all[i]->type)));
		a[k] = all[i]->a;
		b[k] = all[i]->b;
		notarget[k] = all[i]->target == NULL;
		targets[k] = PointerGetDatum(all[i]->target);
		ats[k] = all[i]->at;
		ties[k] = PointerGetDatum(all[i]->tie);
		effective[k] = BoolGetDatum(all[i]->effective);
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
	args[6] = CdpVarlenaArray(targets, notarget, k, TEXTOID);
	args[7] = CdpTimestampArray(ats, k);
	args[8] = CdpVarlenaArray(ties, NULL, k, TEXTOID);
	args[9] = CdpVarlenaArray(effective, NULL, k, BOOLOID);
	CdpRun(&upsert_decisions, args, NULL);
}

/*
 * Take the decisions among the entries in and withdraw those whose entries do
 * not count any more (graph->withdrawn); write what is effective now; mark the
 * pairs that are concerned.
 */
void
CdpGraphDecide(CdpGraph *graph, CdpEntry *entries, int n)
{
	HASHCTL		ctl;
	HTAB	   *decisions = NULL;
	Decision  **all;
	ListCell   *lc;
	int			ndecisions;
	int			i;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Decision);
	ctl.hcxt = graph->context;
	for (i = 0; i < n; i++)
	{
		if (entries[i].reject_reason != NULL ||
			(entries[i].type != CDP_ENTRY_MERGE &&
			 entries[i].type != CDP_ENTRY_SPLIT &&
			 entries[i].type != CDP_ENTRY_UNDO))
			continue;
		if (decisions == NULL)
			decisions = hash_create("cdp decisions", 64, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		add_entry(decisions, &entries[i]);
	}
	if (graph->withdrawn != NIL)
	{
		int64	   *ids = palloc(sizeof(int64) * list_length(graph->withdrawn));
		int			nids = 0;
		Datum		arg;

		if (decisions == NULL)
			decisions = hash_create("cdp decisions", 64, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		foreach(lc, graph->withdrawn)
			ids[nids++] = *(int64 *) lfirst(lc);
		arg = CdpInt8Array(ids, nids);
		CdpRun(&load_entries, &arg, NULL);
		load_rows(decisions, graph->context);
	}
	if (decisions == NULL)
		return;

	close_decisions(decisions, graph->context);

	if (graph->withdrawn != NIL)
	{
		int64	   *ids = palloc(sizeof(int64) * list_length(graph->withdrawn));
		int64	   *nodes = palloc(sizeof(int64) * 2 * list_length(graph->withdrawn));
		int			nids = 0;
		int			nnodes = 0;
		Datum		arg;

		foreach(lc, graph->withdrawn)
		{
			int64		id = *(int64 *) lfirst(lc);
			Decision   *d = hash_search(decisions, &id, HASH_FIND, NULL);

			if (d == NULL)
				continue;
			ids[nids++] = id;
			if (d->type != CDP_ENTRY_UNDO)
			{
				nodes[nnodes++] = d->a;
				nodes[nnodes++] = d->b;
			}
		}
		arg = CdpInt8Array(ids, nids);
		if (nids > 0)
			CdpRun(&delete_entries, &arg, NULL);
		for (i = 0; i < nids; i++)
			(void) hash_search(decisions, &ids[i], HASH_REMOVE, NULL);
		CdpGraphAddNodes(graph, nodes, nnodes);
		for (i = 0; i < nnodes; i++)
		{
			CdpNode    *node = CdpGraphNode(graph, nodes[i]);

			if (node != NULL)
				node->dirty = true;
		}
	}

	ndecisions = judge(decisions, &all);
	if (ndecisions == 0)
		return;
	write_decisions(all, ndecisions);

	for (i = 0; i < ndecisions; i++)
	{
		int64		ids[2];
		int			j;

		if (all[i]->type == CDP_ENTRY_UNDO ||
			(all[i]->on_disk && all[i]->effective == all[i]->was_effective))
			continue;
		ids[0] = all[i]->a;
		ids[1] = all[i]->b;
		CdpGraphAddNodes(graph, ids, 2);
		for (j = 0; j < 2; j++)
		{
			CdpGraphNode(graph, ids[j])->dirty = true;
			CdpNodeRoot(CdpGraphNode(graph, ids[j]))->dirty = true;
		}
	}
	pfree(all);
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
		int64	   *ids = palloc(sizeof(int64) * Max(graph->nactive, 1));
		int			n;

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
