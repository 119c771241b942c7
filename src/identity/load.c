/*-------------------------------------------------------------------------
 *
 * load.c
 *	  Rows of cdp.identities become nodes in memory, with all of their profile.
 *
 *	  A row is found by its identifier, or by its number, and read at once; then
 *	  the others of its profile are, by an index in which it stands as well.  What
 *	  the index says of rows that have been read is passed over before the table
 *	  is looked at.  Most profiles are of one identifier, whose row says so: then
 *	  nothing else is looked for.
 *
 * IDENTIFICATION
 *	  src/identity/load.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/array.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "direct.h"
#include "identity/graph.h"
#include "statement.h"

static CdpDirect load_nodes = {
	"identities",
	{"node_id", "identifier", "profile_id", "first_seen", "last_seen", "state", "segments",
	"timer", "recent", "single", "ctid"},
	.unpruned = true
};

/* A profile to be loaded, and the index entry of a row of it that has been read. */
typedef struct Wanted
{
	int64		profile;
	ItemPointerData entry;		/* invalid: none */
} Wanted;

typedef struct Loading
{
	CdpGraph   *graph;
	CdpProber  *prober;
	List	   *loaded;			/* CdpNode * */
	Wanted	   *wanted;			/* profiles of rows that are read; NULL: never mind */
	int			nwanted;
} Loading;

static struct varlena *
keep_value(CdpGraph *graph, Datum value, bool isnull)
{
	MemoryContext old;
	struct varlena *copy;

	if (isnull)
		return NULL;
	old = MemoryContextSwitchTo(graph->resident);
	copy = PG_DETOAST_DATUM_COPY(value);
	MemoryContextSwitchTo(old);
	return copy;
}

/*
 * Take a row in that may be here already.
 */
static void
take_node(Datum *values, bool *isnull, void *arg)
{
	Loading    *loading = arg;
	CdpGraph   *graph = loading->graph;
	int64		id = DatumGetInt64(values[0]);
	CdpIdentifier *identifier;
	CdpNode    *node = CdpGraphNode(graph, id);

	if (node != NULL)
	{
		CdpGraphActivate(graph, node);
		return;
	}
	identifier = CdpGraphKeepIdentifier(graph, (CdpIdentifier *) PG_DETOAST_DATUM_PACKED(values[1]));
	node = CdpGraphAddNode(graph, id, identifier,
						   CdpKindLookup(graph->kinds,
										 VARDATA_ANY(identifier),
										 CdpIdentifierKindLength(identifier)));
	node->old_profile = DatumGetInt64(values[2]);
	node->first_seen = DatumGetTimestampTz(values[3]);
	node->counted_seen = node->first_seen;
	node->last_seen = DatumGetTimestampTz(values[4]);
	node->disk_first_seen = node->first_seen;
	node->disk_last_seen = node->last_seen;
	node->state = keep_value(graph, values[5], isnull[5]);
	if (!isnull[6])
	{
		ArrayType  *array = DatumGetArrayTypeP(values[6]);

		node->nsegments = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
		node->segments = MemoryContextAlloc(graph->resident,
											sizeof(int32) * Max(node->nsegments, 1));
		memcpy(node->segments, ARR_DATA_PTR(array),
			   sizeof(int32) * node->nsegments);
	}
	if (!isnull[7])
		node->timer = node->new_timer = DatumGetTimestampTz(values[7]);
	node->recent = keep_value(graph, values[8], isnull[8]);
	node->single = DatumGetBool(values[9]) && node->old_profile == id;
	node->place = *(ItemPointer) DatumGetPointer(values[10]);
	CdpGraphSingle(graph, node);
	node->refusals = CDP_REFUSALS_UNKNOWN;
	loading->loaded = lappend(loading->loaded, node);
	if (loading->wanted != NULL && !node->single)
	{
		loading->wanted[loading->nwanted].profile = node->old_profile;
		loading->wanted[loading->nwanted++].entry = *CdpProbeEntry(loading->prober);
	}
}

/*
 * Read the rows that have these keys in an index; their profiles are wanted.
 */
static void
read_rows(Loading *loading, const char *index, const Datum *keys, int n)
{
	loading->wanted = palloc_extended(sizeof(Wanted) * (Size) Max(n, 1), MCXT_ALLOC_HUGE);
	loading->prober = CdpProbeBegin(&load_nodes, index);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		(void) CdpProbe(loading->prober, keys[i], take_node, loading);
	}
	CdpProbeEnd(loading->prober);
}

static int
by_profile(const void *a, const void *b)
{
	const Wanted *x = a;
	const Wanted *y = b;

	if (x->profile != y->profile)
		return x->profile < y->profile ? -1 : 1;
	return ItemPointerCompare(unconstify(ItemPointerData *, &x->entry), unconstify(ItemPointerData *, &y->entry));
}

/*
 * Load whole profiles; brings them into order.
 */
static void
load_profiles(Loading *loading)
{
	CdpGraph   *graph = loading->graph;
	Wanted	   *wanted = loading->wanted;
	int			n = loading->nwanted;
	ItemPointerData *known;
	ListCell   *lc;
	int			next;

	if (n == 0)
		return;
	qsort(wanted, n, sizeof(Wanted), by_profile);
	known = palloc_extended(sizeof(ItemPointerData) * (Size) n, MCXT_ALLOC_HUGE);
	loading->wanted = NULL;
	loading->prober = CdpProbeBegin(&load_nodes, "identities_profile");
	for (int i = 0; i < n; i = next)
	{
		int			nknown = 0;

		CHECK_FOR_INTERRUPTS();
		for (next = i; next < n && wanted[next].profile == wanted[i].profile; next++)
			if (ItemPointerIsValid(&wanted[next].entry))
				known[nknown++] = wanted[next].entry;
		(void) CdpProbeOthers(loading->prober, Int64GetDatum(wanted[i].profile),
							  known, nknown, take_node, loading);
	}
	CdpProbeEnd(loading->prober);
	foreach(lc, loading->loaded)
	{
		CdpNode    *node = lfirst(lc);
		CdpNode    *root = CdpGraphNode(graph, node->old_profile);

		if (root == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("profile %lld has no identifier of that number",
							(long long) node->old_profile)));
		CdpGraphJoin(graph, node, root, false, DT_NOBEGIN);
	}
	list_free(loading->loaded);
	pfree(known);
	pfree(wanted);
}

/*
 * Activate those of the nodes that are here; returns how many are not.
 */
static int
activate_known(CdpGraph *graph, const int64 *ids, int n, int64 *missing)
{
	int			nmissing = 0;
	int			i;

	for (i = 0; i < n; i++)
	{
		CdpNode    *node = CdpGraphNode(graph, ids[i]);

		if (node != NULL)
			CdpGraphActivate(graph, node);
		else
			missing[nmissing++] = ids[i];
	}
	return nmissing;
}

void
CdpGraphAddProfiles(CdpGraph *graph, const int64 *profiles, int n)
{
	Loading		loading = {graph};
	int64	   *missing = palloc(sizeof(int64) * Max(n, 1));

	loading.nwanted = activate_known(graph, profiles, n, missing);
	loading.wanted = palloc0(sizeof(Wanted) * Max(loading.nwanted, 1));
	for (int i = 0; i < loading.nwanted; i++)
		loading.wanted[i].profile = missing[i];
	pfree(missing);
	load_profiles(&loading);
}

void
CdpGraphAddNodes(CdpGraph *graph, const int64 *nodes, int n)
{
	Loading		loading = {graph};
	int64	   *missing = palloc(sizeof(int64) * Max(n, 1));
	int			nmissing = activate_known(graph, nodes, n, missing);
	Datum	   *keys = palloc(sizeof(Datum) * Max(nmissing, 1));

	for (int i = 0; i < nmissing; i++)
		keys[i] = Int64GetDatum(missing[i]);
	pfree(missing);
	if (nmissing > 0)
		read_rows(&loading, "identities_pkey", keys, nmissing);
	pfree(keys);
	load_profiles(&loading);
}

static int
varlena_order(const void *x, const void *y)
{
	struct varlena *a = (struct varlena *) DatumGetPointer(*(const Datum *) x);
	struct varlena *b = (struct varlena *) DatumGetPointer(*(const Datum *) y);
	int			la = VARSIZE_ANY_EXHDR(a);
	int			lb = VARSIZE_ANY_EXHDR(b);
	int			cmp = memcmp(VARDATA_ANY(a), VARDATA_ANY(b), Min(la, lb));

	return cmp != 0 ? cmp : la - lb;
}

/*
 * Look up what CdpGraphWant has asked for, with all nodes of the profiles.  In
 * the order of the index, so that neighbours share its pages.
 */
void
CdpGraphLoadWanted(CdpGraph *graph)
{
	Loading		loading = {graph};

	if (graph->nwanted == 0)
		return;
	/* sealed: all of them are new */
	if (!graph->sealed)
	{
		qsort(graph->wanted, graph->nwanted, sizeof(Datum), varlena_order);
		read_rows(&loading, "identities_identifier", graph->wanted, graph->nwanted);
		load_profiles(&loading);
	}
	graph->nwanted = 0;
}
