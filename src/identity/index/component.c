/*-------------------------------------------------------------------------
 *
 * component.c
 *	  Components and shortest ways, breadth first over accepted evidence.
 *
 * IDENTIFICATION
 *	  src/identity/index/component.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "compat.h"
#include "identity/identity.h"
#include "identity/index/walk.h"

/* What is known of the link through which a node was reached. */
typedef struct Reached
{
	int64		node;			/* hash key */
	int64		via;
	int			depth;
	ItemPointerData tid;
	char		status;			/* simplehash */
} Reached;

#define SH_PREFIX reached
#define SH_ELEMENT_TYPE Reached
#define SH_KEY_TYPE int64
#define SH_KEY node
#define SH_HASH_KEY(tb, key) ((uint32) murmurhash32((uint32) (key) ^ (uint32) ((uint64) (key) >> 32)))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* A node that was reached. */
typedef struct NodeEntry
{
	int64		node;			/* hash key */
	char		status;			/* simplehash */
} NodeEntry;

#define SH_PREFIX node
#define SH_ELEMENT_TYPE NodeEntry
#define SH_KEY_TYPE int64
#define SH_KEY node
#define SH_HASH_KEY(tb, key) ((uint32) murmurhash32((uint32) (key) ^ (uint32) ((uint64) (key) >> 32)))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* The order of evidence, and where it is in a row. */
typedef struct Columns
{
	AttrNumber	at;
	AttrNumber	tie;
	AttrNumber	ord;
	AttrNumber	origin;
} Columns;

typedef struct Evidence
{
	TimestampTz at;
	text	   *tie;
	int32		ord;
	int64		via;
	text	   *origin;
} Evidence;

PG_FUNCTION_INFO_V1(cdp_component_nodes);
PG_FUNCTION_INFO_V1(cdp_graph_walk);

#define ST_SORT sort_nodes
#define ST_ELEMENT_TYPE int64
#define ST_COMPARE(a, b) (*(a) < *(b) ? -1 : *(a) > *(b))
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/*
 * The nodes of a component, in the order in which they were reached.  While
 * there are few, looking through them is cheaper than a hash table.
 */
#define FEW_NODES			24

typedef struct Nodes
{
	int64	   *nodes;
	int			n;
	int			max;
	node_hash  *table;			/* NULL while they are few */
	int64		few[FEW_NODES];
} Nodes;

static bool
is_member(const Nodes *nodes, int64 node)
{
	int			i;

	if (nodes->table != NULL)
		return node_lookup(nodes->table, node) != NULL;
	for (i = 0; i < nodes->n; i++)
	{
		if (nodes->nodes[i] == node)
			return true;
	}
	return false;
}

/* CdpWalkFilter: nodes that have not been reached */
static bool
not_reached(int64 node, void *arg)
{
	return !is_member((const Nodes *) arg, node);
}

/* Add a node if it is not there yet. */
static void
add_node(Nodes *nodes, int64 node)
{
	bool		found;

	if (nodes->table == NULL && is_member(nodes, node))
		return;
	if (nodes->n == nodes->max)
	{
		nodes->max *= 2;
		if (nodes->table == NULL)
		{
			int			i;

			nodes->table = node_create(CurrentMemoryContext, nodes->max, NULL);
			for (i = 0; i < nodes->n; i++)
				node_insert(nodes->table, nodes->nodes[i], &found);
			nodes->nodes = palloc(sizeof(int64) * nodes->max);
			memcpy(nodes->nodes, nodes->few, sizeof(nodes->few));
		}
		else
			nodes->nodes = repalloc_huge(nodes->nodes, sizeof(int64) * (Size) nodes->max);
	}
	if (nodes->table != NULL)
	{
		node_insert(nodes->table, node, &found);
		if (found)
			return;
	}
	nodes->nodes[nodes->n++] = node;
}

/*
 * Does the node belong to somebody whom the session's user does not see?  Who
 * sees nobody by the number 0 sees some only.
 */
static bool
not_visible(int64 node)
{
	return CdpVisibleHook != NULL && !CdpVisibleHook(0) && CdpProfileOfNode(node) == 0;
}

/*
 * cdp.component_nodes(node bigint) returns bigint[]
 */
Datum
cdp_component_nodes(PG_FUNCTION_ARGS)
{
	Nodes		nodes;
	CdpWalk    *walk;
	ArrayType  *result;
	int			next = 0;

	nodes.nodes = nodes.few;
	nodes.n = 0;
	nodes.max = FEW_NODES;
	nodes.table = NULL;
	add_node(&nodes, PG_GETARG_INT64(0));
	if (not_visible(nodes.nodes[0]))
		next = 1;
	walk = CdpWalkBegin(true);
	while (next < nodes.n)
	{
		CdpNeighbour *neighbours;
		int			count;
		int			i;

		CHECK_FOR_INTERRUPTS();
		count = CdpWalkNeighbours(walk, nodes.nodes[next++], not_reached, &nodes,
								  &neighbours);
		/* two links may lead to the same node */
		for (i = 0; i < count; i++)
			add_node(&nodes, neighbours[i].other);
	}
	CdpWalkEnd(walk);
	sort_nodes(nodes.nodes, nodes.n);
	if ((Size) nodes.n > (MaxAllocSize - ARR_OVERHEAD_NONULLS(1)) / sizeof(int64))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("component of %d nodes does not fit into an array", nodes.n)));
	result = palloc(ARR_OVERHEAD_NONULLS(1) + sizeof(int64) * (Size) nodes.n);
	SET_VARSIZE(result, ARR_OVERHEAD_NONULLS(1) + sizeof(int64) * (Size) nodes.n);
	result->ndim = 1;
	result->dataoffset = 0;
	result->elemtype = INT8OID;
	ARR_DIMS(result)[0] = nodes.n;
	ARR_LBOUND(result)[0] = 1;
	memcpy(ARR_DATA_PTR(result), nodes.nodes, sizeof(int64) * (Size) nodes.n);
	PG_RETURN_ARRAYTYPE_P(result);
}

static void
find_columns(Columns *columns)
{
	Oid			links = CdpRelationOid("links");

	columns->at = get_attnum(links, "at");
	columns->tie = get_attnum(links, "tie");
	columns->ord = get_attnum(links, "ord");
	columns->origin = get_attnum(links, "origin");
}

static void
read_evidence(CdpWalk *walk, const Columns *columns, ItemPointer tid, int64 via,
			  Evidence *evidence)
{
	TupleTableSlot *slot = CdpWalkRow(walk, tid);
	bool		isnull;

	if (slot == NULL)
		elog(ERROR, "a link that was visible is not visible any more");
	evidence->at = DatumGetTimestampTz(slot_getattr(slot, columns->at, &isnull));
	evidence->tie = DatumGetTextPCopy(slot_getattr(slot, columns->tie, &isnull));
	evidence->ord = DatumGetInt32(slot_getattr(slot, columns->ord, &isnull));
	evidence->via = via;
	evidence->origin = DatumGetTextPCopy(slot_getattr(slot, columns->origin, &isnull));
}

static int
text_cmp(const text *a, const text *b)
{
	int			x = VARSIZE_ANY_EXHDR(a);
	int			y = VARSIZE_ANY_EXHDR(b);
	int			cmp = memcmp(VARDATA_ANY(a), VARDATA_ANY(b), Min(x, y));

	return cmp != 0 ? cmp : x - y;
}

/* Whether x is before y; by origin only to be the same every time. */
static bool
is_earlier(const Evidence *x, const Evidence *y)
{
	int			cmp;

	if (x->at != y->at)
		return x->at < y->at;
	cmp = text_cmp(x->tie, y->tie);
	if (cmp != 0)
		return cmp < 0;
	if (x->ord != y->ord)
		return x->ord < y->ord;
	if (x->via != y->via)
		return x->via < y->via;
	return text_cmp(x->origin, y->origin) < 0;
}

static void
put_row(ReturnSetInfo *info, CdpWalk *walk, const Columns *columns, const Reached *reached)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};

	values[0] = Int32GetDatum(reached->depth);
	values[1] = Int64GetDatum(reached->node);
	values[2] = Int64GetDatum(reached->via);
	nulls[2] = nulls[3] = reached->depth == 0;
	if (reached->depth > 0)
	{
		ItemPointerData tid = reached->tid;
		TupleTableSlot *slot = CdpWalkRow(walk, &tid);

		if (slot == NULL)
			elog(ERROR, "a link that was visible is not visible any more");
		values[3] = slot_getattr(slot, columns->origin, &nulls[3]);
	}
	tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
}

/* What has been reached before the level at work. */
typedef struct Level
{
	reached_hash *seen;
	int			depth;
} Level;

/* CdpWalkFilter: nodes that have not been reached before this level */
static bool
not_before(int64 node, void *arg)
{
	Level	   *level = (Level *) arg;
	Reached    *reached = reached_lookup(level->seen, node);

	return reached == NULL || reached->depth >= level->depth;
}

/*
 * cdp.graph_walk(start bigint, target bigint)
 *		returns table (depth int, node bigint, via bigint, origin text)
 */
Datum
cdp_graph_walk(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		has_target = !PG_ARGISNULL(1);
	int64		target = has_target ? PG_GETARG_INT64(1) : 0;
	MemoryContext scratch;
	MemoryContext old;
	Columns		columns;
	reached_hash *seen;
	Reached    *reached;
	CdpWalk    *walk;
	int64	   *nodes;
	int			max = 64;
	int			n = 0;
	int			next = 0;
	bool		found;
	bool		arrived = false;
	int			depth = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0) || not_visible(PG_GETARG_INT64(0)))
		return (Datum) 0;
	find_columns(&columns);
	seen = reached_create(CurrentMemoryContext, 64, NULL);
	nodes = palloc(sizeof(int64) * max);
	scratch = AllocSetContextCreate(CurrentMemoryContext, "evidence", ALLOCSET_SMALL_SIZES);
	nodes[n++] = PG_GETARG_INT64(0);
	reached = reached_insert(seen, nodes[0], &found);
	reached->depth = 0;
	reached->via = 0;
	arrived = has_target && target == nodes[0];
	walk = CdpWalkBegin(true);

	/* level by level: nodes[next .. end) are one */
	while (next < n && !arrived)
	{
		int			end = n;

		depth++;
		for (; next < end; next++)
		{
			CdpNeighbour *neighbours;
			Level		level = {seen, depth};
			int			count = CdpWalkNeighbours(walk, nodes[next], not_before, &level,
												  &neighbours);
			int64		via = nodes[next];
			int			i;

			CHECK_FOR_INTERRUPTS();
			for (i = 0; i < count; i++)
			{
				CdpNeighbour *neighbour = &neighbours[i];

				reached = reached_insert(seen, neighbour->other, &found);
				if (found && reached->depth < depth)
					continue;
				if (found)
				{
					Evidence	was;
					Evidence	is;
					bool		earlier;

					old = MemoryContextSwitchTo(scratch);
					read_evidence(walk, &columns, &reached->tid, reached->via, &was);
					read_evidence(walk, &columns, &neighbour->tid, via, &is);
					earlier = is_earlier(&is, &was);
					MemoryContextSwitchTo(old);
					MemoryContextReset(scratch);
					if (!earlier)
						continue;
				}
				else
				{
					reached->depth = depth;
					if (n == max)
					{
						max *= 2;
						nodes = repalloc_huge(nodes, sizeof(int64) * (Size) max);
					}
					nodes[n++] = neighbour->other;
				}
				reached->via = via;
				reached->tid = neighbour->tid;
				if (has_target && neighbour->other == target)
					arrived = true;
			}
		}
	}

	if (arrived)
	{
		int64		node = target;

		do
		{
			reached = reached_lookup(seen, node);
			put_row(info, walk, &columns, reached);
			node = reached->via;
		} while (reached->depth > 0);
	}
	else if (!has_target)
	{
		int			i;

		for (i = 0; i < n; i++)
			put_row(info, walk, &columns, reached_lookup(seen, nodes[i]));
	}
	CdpWalkEnd(walk);
	return (Datum) 0;
}
