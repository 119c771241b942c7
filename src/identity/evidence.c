/*-------------------------------------------------------------------------
 *
 * evidence.c
 *	  Links between nodes, as cdp.links keeps them.
 *
 * IDENTIFICATION
 *	  src/identity/evidence.c
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

/* So many links are not kept in memory because a replay has looked at them. */
#define MANY_LINKS	100000

/* What is small is taken from blocks of so many bytes. */
#define SMALL_BLOCK	65536

#define LINK_COLUMNS \
	"l.a, l.b, l.entry, l.at, l.tie, l.ord, l.status, l.reason, l.detail," \
	" l.last_at, l.last_tie"

static CdpStatement load_pairs = {
	"SELECT " LINK_COLUMNS
	" FROM (SELECT unnest($1) AS a, unnest($2) AS b) AS u"
	" JOIN cdp.links l ON l.a = u.a AND l.b = u.b AND l.origin = 'event'",
	{"int8[]", "int8[]"}
};

/* effective merges that touch a node */
static CdpStatement load_merges = {
	"SELECT d.a, d.b, d.entry, d.at, d.tie, 0, NULL::text, NULL::text, NULL::text,"
	" NULL::timestamptz, NULL::text"
	" FROM (SELECT unnest($1) AS node) AS u"
	" JOIN cdp.decisions d ON d.a = u.node AND d.type = 'merge' AND d.effective"
	" UNION ALL "
	"SELECT d.a, d.b, d.entry, d.at, d.tie, 0, NULL::text, NULL::text, NULL::text,"
	" NULL::timestamptz, NULL::text"
	" FROM (SELECT unnest($1) AS node) AS u"
	" JOIN cdp.decisions d ON d.b = u.node AND d.type = 'merge' AND d.effective",
	{"int8[]"}
};

static CdpStatement delete_manual = {
	"DELETE FROM cdp.links l USING unnest($1) AS u (node)"
	" WHERE l.a = u.node AND l.origin = 'manual'",
	{"int8[]"}
};

static CdpStatement delete_merges = {
	"DELETE FROM cdp.links l USING unnest($1, $2) AS u (a, b)"
	" WHERE l.a = u.a AND l.b = u.b AND l.origin = 'manual'",
	{"int8[]", "int8[]"}
};

static CdpStatement delete_links = {
	"DELETE FROM cdp.links l USING unnest($1, $2) AS u (a, b)"
	" WHERE l.a = u.a AND l.b = u.b AND l.origin = 'event'",
	{"int8[]", "int8[]"}
};

static CdpStatement upsert_links = {
	"INSERT INTO cdp.links AS l (a, b, entry, at, tie, ord, origin, status, reason, detail)"
	" SELECT g.a, g.b, g.entry, g.at, g.tie, g.ord, g.origin, g.status, g.reason, g.detail FROM given g"
	" ON CONFLICT (a, b, origin) DO UPDATE SET entry = excluded.entry,"
	" at = excluded.at, tie = excluded.tie, ord = excluded.ord,"
	" status = excluded.status, reason = excluded.reason, detail = excluded.detail",
	.given = {{"a", "int8"}, {"b", "int8"}, {"entry", "int8"}, {"at", "timestamptz"},
	{"tie", "text"}, {"ord", "int4"}, {"origin", "text"}, {"status", "text"},
	{"reason", "text"}, {"detail", "text"}}
};

static CdpStatement update_last = {
	"UPDATE cdp.links l SET last_at = u.at, last_tie = u.tie"
	" FROM (SELECT unnest($1) AS a, unnest($2) AS b, unnest($3) AS at,"
	" unnest($4) AS tie) AS u"
	" WHERE l.a = u.a AND l.b = u.b AND l.origin = 'event'",
	{"int8[]", "int8[]", "timestamptz[]", "text[]"}
};

static CdpKind *
barred_by(CdpGraph *graph, char status, const char *detail)
{
	CdpKind    *kind;

	if (graph->npolicies == 0 || status != 'r' || detail == NULL)
		return NULL;
	kind = CdpKindLookup(graph->kinds, detail, strlen(detail));
	return kind->policy == CDP_POLICY_DEMOTE ? NULL : kind;
}

CdpKind *
CdpLinkBarredBy(CdpGraph *graph, const CdpLink *link)
{
	return barred_by(graph, link->status, link->detail);
}

CdpKind *
CdpLinkWasBarredBy(CdpGraph *graph, const CdpLink *link)
{
	return barred_by(graph, link->was_status, link->was_detail);
}

/*
 * Was it refused for the limit of a kind whose policy changes?
 */
static bool
is_repolicied(CdpGraph *graph, const char *detail)
{
	ListCell   *lc;

	if (detail == NULL)
		return false;
	foreach(lc, graph->repolicied)
		if (strcmp(lfirst(lc), detail) == 0)
			return true;
	return false;
}

List *
CdpGraphBarsChanged(CdpGraph *graph)
{
	List	   *nodes = NIL;

	if (graph->npolicies == 0 && graph->repolicied == NIL)
		return NIL;
	for (int i = 0; i < graph->nlinks; i++)
	{
		CdpLink    *link = CdpGraphLinkAt(graph, i);

		if (link->manual || link->gone || !link->on_disk ||
			(CdpLinkBarredBy(graph, link) == CdpLinkWasBarredBy(graph, link) &&
			 !is_repolicied(graph, link->detail) &&
			 !is_repolicied(graph, link->was_detail)))
			continue;
		nodes = lappend(nodes, &link->a->id);
		nodes = lappend(nodes, &link->b->id);
	}
	return nodes;
}

/*
 * There is this evidence for the pair.  When the newest user has one of its
 * ends, the latest evidence is kept.
 */
void
CdpLinkSeen(CdpLink *link, TimestampTz at, text *tie)
{
	if (CdpNodeShared(link->a) != CDP_SHARED_NEWEST &&
		CdpNodeShared(link->b) != CDP_SHARED_NEWEST)
		return;
	if (link->last_tie != NULL &&
		CdpOrderCompare(at, tie, link->last_at, link->last_tie) <= 0)
		return;
	link->last_at = at;
	link->last_tie = tie;
	link->last_changed = true;
}

static char
status_from_text(const char *status)
{
	return status == NULL ? 0 : status[0];
}

/*
 * The link that a row is taken into.  NULL: a link that is here already keeps
 * what this batch has made of it (changed), unless overwrite is set.
 */
static CdpLink *
link_of_row(CdpGraph *graph, CdpNode *a, CdpNode *b, bool manual, bool overwrite)
{
	CdpLink    *link;
	bool		found;

	link = CdpGraphLink(graph, a, b, manual, &found);
	if (found && !overwrite && (link->changed || link->gone || link->on_disk))
	{
		link->on_disk |= !manual;
		return NULL;
	}
	link->on_disk = !manual;
	return link;
}

static CdpNode *
node_of_row(CdpGraph *graph, int64 id)
{
	CdpNode    *node = CdpGraphNode(graph, id);

	if (node == NULL)
		elog(ERROR, "link of %lld is not in the graph", (long long) id);
	return node;
}

/*
 * Take rows of LINK_COLUMNS in.
 */
static void
load_link_rows(CdpGraph *graph, bool manual, bool overwrite)
{
	uint64		nrows = SPI_processed;
	uint64		i;

	for (i = 0; i < nrows; i++)
	{
		CdpLink    *link = link_of_row(graph, node_of_row(graph, CdpCellInt8(i, 1)),
									   node_of_row(graph, CdpCellInt8(i, 2)),
									   manual, overwrite);
		struct varlena *text;
		bool		isnull;
		Datum		value;

		if (link == NULL)
			continue;
		link->entry = CdpCellInt8(i, 3);
		link->at = CdpCellInt8(i, 4);
		link->tie = CdpCellVarlena(i, 5, graph->context);
		link->ord = DatumGetInt32(CdpCell(i, 6, &isnull));
		text = CdpCellVarlena(i, 7, graph->context);
		link->status = text ? status_from_text(text_to_cstring(text)) : 0;
		text = CdpCellVarlena(i, 8, graph->context);
		link->reason = text ? text_to_cstring(text) : NULL;
		text = CdpCellVarlena(i, 9, graph->context);
		link->detail = text ? text_to_cstring(text) : NULL;
		link->was_at = link->at;
		link->was_status = link->status;
		link->was_reason = link->reason;
		link->was_detail = link->detail;
		value = CdpCell(i, 10, &isnull);
		link->last_tie = NULL;
		link->last_changed = false;
		if (!isnull)
		{
			link->last_at = DatumGetTimestampTz(value);
			link->last_tie = CdpCellVarlena(i, 11, graph->context);
		}
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Fill in what cdp.links knows about these event links (overwriting what they
 * say).  A link with a new node cannot have a row.
 */
void
CdpGraphLoadLinks(CdpGraph *graph, CdpLink **links, int n)
{
	int64	   *a = palloc(sizeof(int64) * Max(n, 1));
	int64	   *b = palloc(sizeof(int64) * Max(n, 1));
	int			npairs = 0;
	int			i;

	for (i = 0; i < n; i++)
	{
		if (links[i]->a->is_new || links[i]->b->is_new)
			continue;
		a[npairs] = links[i]->a->id;
		b[npairs++] = links[i]->b->id;
	}
	if (npairs > 0)
	{
		Datum		args[2];

		args[0] = CdpInt8Array(a, npairs);
		args[1] = CdpInt8Array(b, npairs);
		CdpRun(&load_pairs, args, NULL);
		load_link_rows(graph, false, true);
	}
	pfree(a);
	pfree(b);
}

static bool
is_stranger(CdpGraph *graph, int64 id)
{
	CdpNode    *node = CdpGraphNode(graph, id);

	return node == NULL || node->batch != graph->batch;
}

/*
 * Node numbers in the first two columns of SPI_tuptable that do not take part
 * yet.
 */
static int
strangers(CdpGraph *graph, int64 **result)
{
	int64	   *ids = palloc(sizeof(int64) * 2 * Max(SPI_processed, 1));
	int			n = 0;
	uint64		i;
	int			col;

	for (i = 0; i < SPI_processed; i++)
	{
		for (col = 1; col <= 2; col++)
		{
			int64		id = CdpCellInt8(i, col);

			if (is_stranger(graph, id))
				ids[n++] = id;
		}
	}
	*result = ids;
	return n;
}

/*
 * Memory for what is small and lives as long as the batch: there may be millions of
 * them, and a chunk of their own would take as much again.
 */
static void *
small_memory(CdpGraph *graph, Size size)
{
	char	   *result;

	size = MAXALIGN(size);
	if (size > SMALL_BLOCK / 8)
		return MemoryContextAlloc(graph->context, size);
	if (size > graph->small_left)
	{
		graph->small = MemoryContextAlloc(graph->context, SMALL_BLOCK);
		graph->small_left = SMALL_BLOCK;
	}
	result = graph->small;
	graph->small += size;
	graph->small_left -= size;
	return result;
}

static text *
keep_varlena(CdpGraph *graph, const text *value)
{
	return memcpy(small_memory(graph, VARSIZE_ANY(value)), value, VARSIZE_ANY(value));
}

static bool
says(const text *value, const char *s)
{
	return VARSIZE_ANY_EXHDR(value) == strlen(s) &&
		memcmp(VARDATA_ANY(value), s, VARSIZE_ANY_EXHDR(value)) == 0;
}

/*
 * A reason is one of a few, or the name of a kind: mostly there is no need for a copy.
 */
static const char *
keep_text(CdpGraph *graph, const text *value)
{
	int			len;
	char	   *copy;

	if (value == NULL)
		return NULL;
	for (CdpVerdict verdict = CDP_JOIN_LIMIT; verdict <= CDP_JOIN_DETACHED; verdict++)
		if (says(value, CdpVerdictReason(verdict)))
			return CdpVerdictReason(verdict);
	for (int i = 0; i < graph->nlimited; i++)
		if (says(value, graph->limiting[i]->name))
			return graph->limiting[i]->name;
	len = VARSIZE_ANY_EXHDR(value);
	copy = small_memory(graph, len + 1);
	memcpy(copy, VARDATA_ANY(value), len);
	copy[len] = '\0';
	return copy;
}

void
CdpGraphTakeRow(CdpGraph *graph, CdpNode *a, CdpNode *b, const CdpEvidenceRow *row)
{
	CdpLink    *link = link_of_row(graph, a, b, false, false);

	if (link == NULL)
		return;
	link->entry = row->entry;
	link->at = row->at;
	link->tie = keep_varlena(graph, row->tie);
	link->ord = row->ord;
	link->status = *VARDATA_ANY(row->status);
	link->reason = keep_text(graph, row->reason);
	link->detail = keep_text(graph, row->detail);
	link->was_at = link->at;
	link->was_status = link->status;
	link->was_reason = link->reason;
	link->was_detail = link->detail;
	link->last_changed = false;
	link->last_tie = row->last_tie == NULL ? NULL : keep_varlena(graph, row->last_tie);
	if (row->last_tie != NULL)
		link->last_at = row->last_at;
}

/*
 * All evidence that touches the nodes: load it together with the nodes at its
 * other ends (and their profiles).
 */
void
CdpGraphLoadEvidence(CdpGraph *graph, CdpNode **nodes, int n)
{
	SPITupleTable *rows;
	uint64		nrows;
	int64	   *missing;
	int			nmissing;
	Datum		arg;

	if (graph->sealed)
		return;
	CdpEvidenceRead(graph, nodes, n);
	if (CdpTableIsVoid("decisions"))
		return;

	arg = CdpNodeNumbers(nodes, n);
	CdpRun(&load_merges, &arg, NULL);
	pfree(DatumGetPointer(arg));
	rows = SPI_tuptable;
	nrows = SPI_processed;
	nmissing = strangers(graph, &missing);
	if (nmissing > 0)
		CdpGraphAddNodes(graph, missing, nmissing);
	SPI_tuptable = rows;
	SPI_processed = nrows;
	load_link_rows(graph, true, false);
	pfree(missing);
}

Datum
CdpNodeNumbers(CdpNode **nodes, int n)
{
	int64	   *ids = palloc_extended(sizeof(int64) * (Size) Max(n, 1), MCXT_ALLOC_HUGE);
	Datum		result;

	for (int i = 0; i < n; i++)
		ids[i] = nodes[i]->id;
	result = CdpInt8Array(ids, n);
	pfree(ids);
	return result;
}

/*
 * Is evidence of this order key taken away from the pair by a detach of one
 * of its ends?
 */
static bool
is_detached(CdpGraph *graph, CdpLink *link, TimestampTz at, const text *tie)
{
	CdpNode    *ends[2] = {link->a, link->b};
	int			i;

	if (graph->detached == NULL)
		return false;
	for (i = 0; i < 2; i++)
	{
		CdpDetached *detached = hash_search(graph->detached, &ends[i]->id,
											HASH_FIND, NULL);

		if (detached != NULL &&
			CdpOrderCompare(at, tie, detached->at, detached->tie) < 0)
			return true;
	}
	return false;
}

bool
CdpGraphDetached(CdpGraph *graph, CdpLink *link)
{
	return is_detached(graph, link, link->at, link->tie);
}

/*
 * Does other evidence for the pair count rather than what the link has?  The
 * earliest one does; but what a detach has taken away gives way to what has
 * not been.
 */
bool
CdpGraphEvidenceCounts(CdpGraph *graph, CdpLink *link, TimestampTz at,
					   const text *tie)
{
	bool		mine = is_detached(graph, link, link->at, link->tie);
	bool		other = is_detached(graph, link, at, tie);

	if (mine != other)
		return mine;
	return CdpOrderCompare(at, tie, link->at, link->tie) < 0;
}

/*
 * The order of evidence, for qsort over CdpLink *.
 */
int
CdpLinkOrder(const void *a, const void *b)
{
	const CdpLink *x = *(CdpLink *const *) a;
	const CdpLink *y = *(CdpLink *const *) b;
	int			cmp = CdpOrderCompare(x->at, x->tie, y->at, y->tie);

	if (cmp != 0)
		return cmp;
	return x->ord < y->ord ? -1 : x->ord > y->ord ? 1 : 0;
}

static const char *
status_text(char status)
{
	switch (status)
	{
		case 'a':
			return "accepted";
		case 'r':
			return "refused";
		case 'o':
			return "overruled";
		default:
			elog(ERROR, "link has not been judged");
			return NULL;		/* keep compilers quiet */
	}
}

/*
 * The latest evidence, of the pairs that need it.
 */
static void
write_last(CdpGraph *graph)
{
	int			max = graph->nlinks + 1;
	int64	   *a = palloc(sizeof(int64) * max);
	int64	   *b = palloc(sizeof(int64) * max);
	TimestampTz *ats = palloc(sizeof(TimestampTz) * max);
	Datum	   *ties = palloc(sizeof(Datum) * max);
	int			n = 0;
	Datum		args[4];

	for (int i = 0; i < graph->nlinks; i++)
	{
		CdpLink    *link = CdpGraphLinkAt(graph, i);

		if (link->gone || !link->last_changed)
			continue;
		a[n] = link->a->id;
		b[n] = link->b->id;
		ats[n] = link->last_at;
		ties[n++] = PointerGetDatum(link->last_tie);
	}
	if (n == 0)
		return;
	args[0] = CdpInt8Array(a, n);
	args[1] = CdpInt8Array(b, n);
	args[2] = CdpTimestampArray(ats, n);
	args[3] = CdpVarlenaArray(ties, NULL, n, TEXTOID);
	CdpRun(&update_last, args, NULL);
}

/*
 * Delete the rows of links (CdpLink *) that are gone.
 */
static void
delete_gone(CdpStatement *statement, List *links)
{
	int64	   *a = palloc(sizeof(int64) * Max(list_length(links), 1));
	int64	   *b = palloc(sizeof(int64) * Max(list_length(links), 1));
	int			n = 0;
	ListCell   *lc;
	Datum		args[2];

	if (links == NIL)
		return;
	foreach(lc, links)
	{
		CdpLink    *link = lfirst(lc);

		a[n] = link->a->id;
		b[n++] = link->b->id;
	}
	args[0] = CdpInt8Array(a, n);
	args[1] = CdpInt8Array(b, n);
	CdpRun(statement, args, NULL);
}

/*
 * Manual links are rewritten for every node of a replayed cluster; event
 * links where something changed.
 */
void
CdpGraphWriteLinks(CdpGraph *graph)
{
	List	   *gone[2] = {NIL, NIL};
	List	   *written = NIL;
	ListCell   *lc;
	CdpGiven   *given;
	Datum		event;
	Datum		manual;

	/* merges by hand leave rows in both tables */
	if (graph->replayed && !CdpTableIsVoid("decisions"))
	{
		CdpNode   **nodes = palloc_extended(sizeof(CdpNode *) * (Size) Max(graph->nactive, 1),
											MCXT_ALLOC_HUGE);
		int			n = 0;
		int			i;

		for (i = 0; i < graph->nactive; i++)
		{
			if (graph->active[i]->mark == graph->mark &&
				!graph->active[i]->is_new)
				nodes[n++] = graph->active[i];
		}
		if (n > 0)
		{
			Datum		arg = CdpNodeNumbers(nodes, n);

			CdpRun(&delete_manual, &arg, NULL);
		}
		pfree(nodes);
	}
	if (graph->links == NULL)
		return;

	for (int i = 0; i < graph->nlinks; i++)
	{
		CdpLink    *link = CdpGraphLinkAt(graph, i);

		if (link->gone && (link->manual || link->on_disk))
			gone[link->manual] = lappend(gone[link->manual], link);
		else if (!link->gone && (link->changed || link->manual))
			written = lappend(written, link);
	}
	delete_gone(&delete_links, gone[false]);
	delete_gone(&delete_merges, gone[true]);

	event = CStringGetTextDatum("event");
	manual = CStringGetTextDatum("manual");
	given = CdpGive(&upsert_links);
	foreach(lc, written)
	{
		CdpLink    *link = lfirst(lc);
		Datum		values[10];
		bool		isnull[10] = {false};

		values[0] = Int64GetDatum(link->a->id);
		values[1] = Int64GetDatum(link->b->id);
		values[2] = Int64GetDatum(link->entry);
		values[3] = TimestampTzGetDatum(link->at);
		values[4] = PointerGetDatum(link->tie);
		values[5] = Int32GetDatum(link->ord);
		values[6] = link->manual ? manual : event;
		values[7] = CStringGetTextDatum(status_text(link->status));
		isnull[8] = link->reason == NULL;
		values[8] = isnull[8] ? (Datum) 0 : CStringGetTextDatum(link->reason);
		isnull[9] = link->detail == NULL;
		values[9] = isnull[9] ? (Datum) 0 : CStringGetTextDatum(link->detail);
		CdpGiveRow(given, values, isnull);
	}
	(void) CdpRunGiven(given, NULL, NULL);
	if (graph->nnewest > 0)
		write_last(graph);
}

/*
 * The batch has been written: remember when the pairs that it dealt with were
 * first connected.
 */
void
CdpGraphKeepPairs(CdpGraph *graph)
{
	bool		many;

	many = graph->nlinks > MANY_LINKS;
	for (int i = 0; i < graph->nlinks; i++)
	{
		CdpLink    *link = CdpGraphLinkAt(graph, i);

		/* what a large replay has read and left as it was */
		if (many && link->on_disk && !link->changed && !link->listed && !link->gone)
			continue;
		if (!link->manual)
			CdpGraphPairKeep(graph, link->a->id, link->b->id,
							 link->gone || CdpGraphDetached(graph, link),
							 link->at, CdpLinkBarredBy(graph, link));
	}
}
