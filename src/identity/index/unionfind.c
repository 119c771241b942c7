/*-------------------------------------------------------------------------
 *
 * unionfind.c
 *	  Components of an edge table from scratch, by union-find in memory.
 *
 *	  Nodes are small numbers most of the time: then a node is its own place in
 *	  an array.  When one is negative, or far greater than the edges so far and
 *	  the size of the table explain, a hash table from nodes to places takes over.  The root of a
 *	  component is its smallest node.
 *
 * IDENTIFICATION
 *	  src/identity/index/unionfind.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupmacs.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "identity/index/graph_index.h"

#define NOWHERE		0			/* parents are places + 1 */
#define MAX_PLACES	(UINT32_MAX - 1)

/* as many rows as of an edge and nothing else */
#define ROWS_A_BLOCK	(BLCKSZ / 44)

typedef struct Place
{
	int64		node;			/* hash key */
	uint32		place;
	char		status;			/* simplehash */
} Place;

#define SH_PREFIX place
#define SH_ELEMENT_TYPE Place
#define SH_KEY_TYPE int64
#define SH_KEY node
#define SH_HASH_KEY(tb, key) ((uint32) murmurhash32((uint32) (key) ^ (uint32) ((uint64) (key) >> 32)))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/*
 * Edges wait here until what they lead to has come from memory: the ends of edges
 * that follow each other in a table are far from each other.
 */
#define EDGES_AHEAD	16
#define CACHED_PLACES	(1 << 18)

typedef struct Forest
{
	int			nahead;
	int64		ahead[EDGES_AHEAD][2];	/* a ring, once it is full */
	MemoryContext context;
	uint64		edges;
	uint64		expected;		/* edges, by the size of the table */
	uint32	   *parents;		/* by place; NOWHERE: no such node */
	uint64		max;			/* length of parents, and of nodes */
	uint64		n;				/* places in use */
	place_hash *places;			/* NULL: the place of a node is its number */
	int64	   *nodes;			/* by place, when there is a hash table */
} Forest;

PG_FUNCTION_INFO_V1(cdp_graph_components);
PG_FUNCTION_INFO_V1(cdp_graph_components_query);

static void
grow(Forest *forest, uint64 needed)
{
	uint64		max = Max(forest->max * 2, 1024);

	while (max < needed)
		max *= 2;
	if (forest->parents == NULL)
		forest->parents = MemoryContextAllocHuge(forest->context, sizeof(uint32) * max);
	else
		forest->parents = repalloc_huge(forest->parents, sizeof(uint32) * max);
	memset(forest->parents + forest->max, 0, sizeof(uint32) * (max - forest->max));
	if (forest->places != NULL)
		forest->nodes = repalloc_huge(forest->nodes, sizeof(int64) * max);
	forest->max = max;
}

/* From places that are nodes to a hash table. */
static void
use_hash(Forest *forest)
{
	uint32	   *old = forest->parents;
	uint64		n = forest->n;
	uint64		i;
	uint32	   *new_place;
	uint32		next = 0;

	forest->places = place_create(forest->context, 1024, NULL);
	new_place = MemoryContextAllocHuge(forest->context, sizeof(uint32) * Max(n, 1));
	for (i = 0; i < n; i++)
	{
		if (old[i] != NOWHERE)
			new_place[i] = next++;
	}
	forest->max = Max(next, 1024);
	forest->parents = MemoryContextAllocHuge(forest->context, sizeof(uint32) * forest->max);
	memset(forest->parents, 0, sizeof(uint32) * forest->max);
	forest->nodes = MemoryContextAllocHuge(forest->context, sizeof(int64) * forest->max);
	for (i = 0; i < n; i++)
	{
		bool		found;

		if (old[i] == NOWHERE)
			continue;
		place_insert(forest->places, (int64) i, &found)->place = new_place[i];
		forest->parents[new_place[i]] = new_place[old[i] - 1] + 1;
		forest->nodes[new_place[i]] = (int64) i;
	}
	forest->n = next;
	pfree(new_place);
	if (old != NULL)
		pfree(old);
}

static inline uint32
place_of(Forest *forest, int64 node)
{
	Place	   *entry;
	bool		found;

	if (forest->places == NULL)
	{
		if (node >= 0 && (uint64) node < MAX_PLACES &&
			(uint64) node < 16 * Max(forest->edges, forest->expected) + (1 << 20))
		{
			uint64		place = (uint64) node;

			if (place >= forest->max)
				grow(forest, place + 1);
			if (place >= forest->n)
				forest->n = place + 1;
			if (forest->parents[place] == NOWHERE)
				forest->parents[place] = (uint32) place + 1;
			return (uint32) place;
		}
		use_hash(forest);
	}
	entry = place_insert(forest->places, node, &found);
	if (!found)
	{
		if (forest->n >= MAX_PLACES)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("more than %u nodes", MAX_PLACES)));
		entry->place = (uint32) forest->n;
		if (forest->n >= forest->max)
			grow(forest, forest->n + 1);
		forest->nodes[forest->n] = node;
		forest->parents[forest->n] = (uint32) forest->n + 1;
		forest->n++;
	}
	return entry->place;
}

static inline int64
node_at(Forest *forest, uint32 place)
{
	return forest->places == NULL ? (int64) place : forest->nodes[place];
}

static inline uint32
root_of(Forest *forest, uint32 place)
{
	uint32	   *parents = forest->parents;

	while (parents[place] != place + 1)
	{
		parents[place] = parents[parents[place] - 1];
		place = parents[place] - 1;
	}
	return place;
}

static void
join_places(Forest *forest, int64 a, int64 b)
{
	bool		hashed = forest->places != NULL;
	uint32		x = place_of(forest, a);
	uint32		y = place_of(forest, b);

	if (!hashed && forest->places != NULL)
		x = place_of(forest, a);	/* it has moved to the hash table */
	x = root_of(forest, x);
	y = root_of(forest, y);
	if (x == y)
		return;
	if (node_at(forest, x) < node_at(forest, y))
		forest->parents[y] = x + 1;
	else
		forest->parents[x] = y + 1;
}

/* The place of a node that is its number and below forest->n. */
static inline uint32
root_of_number(uint32 *parents, uint64 node)
{
	uint32		place = (uint32) node;

	if (parents[place] == NOWHERE)
		parents[place] = place + 1;
	while (parents[place] != place + 1)
		place = (parents[place] = parents[parents[place] - 1]) - 1;
	return place;
}

static inline void
join_nodes(Forest *forest, int64 a, int64 b)
{
	if ((++forest->edges & 0xFFFF) == 0)
		CHECK_FOR_INTERRUPTS();
	if (forest->places == NULL && (uint64) a < forest->n && (uint64) b < forest->n)
	{
		uint32		x = root_of_number(forest->parents, (uint64) a);
		uint32		y = root_of_number(forest->parents, (uint64) b);

		if (x < y)
			forest->parents[y] = x + 1;
		else
			forest->parents[x] = y + 1;
	}
	else
		join_places(forest, a, b);
}

static inline void
add_edge(Forest *forest, int64 a, int64 b)
{
	int64	   *place;

	/* the processor's cache has them */
	if (forest->n < CACHED_PLACES)
	{
		join_nodes(forest, a, b);
		return;
	}
	place = forest->ahead[forest->nahead % EDGES_AHEAD];
	if (forest->nahead >= EDGES_AHEAD)
		join_nodes(forest, place[0], place[1]);
	place[0] = a;
	place[1] = b;
	if (++forest->nahead == 2 * EDGES_AHEAD)
		forest->nahead = EDGES_AHEAD;
	if (forest->places == NULL)
	{
		if ((uint64) a < forest->max)
			CdpgPrefetch(&forest->parents[a]);
		if ((uint64) b < forest->max)
			CdpgPrefetch(&forest->parents[b]);
	}
}

static void
end_edges(Forest *forest)
{
	int			i;

	for (i = 0; i < Min(forest->nahead, EDGES_AHEAD); i++)
		join_nodes(forest, forest->ahead[i][0], forest->ahead[i][1]);
	forest->nahead = 0;
}

/* what a row of the result takes in a tuplestore's memory */
#define RESULT_ROW	56

/* Less than that is not let go to disk. */
#define RESULT_MIN	1024		/* kB */

/*
 * Where the rows go.  There is one for each node of a graph that is in memory, so
 * what maintenance may take is the measure, and not work_mem.  More rows than fit
 * there are written to disk anyway, all of them: then the fewer of them have been
 * kept before, the sooner.
 */
static void
begin_result(FunctionCallInfo fcinfo, uint64 rows)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	int			memory = Max(maintenance_work_mem, work_mem);
	MemoryContext old;

	if (rows * RESULT_ROW / 1024 > (uint64) memory)
		memory = Min(RESULT_MIN, memory);
	if (memory == work_mem)
		return;
	tuplestore_end(info->setResult);
	old = MemoryContextSwitchTo(info->econtext->ecxt_per_query_memory);
	info->setResult = tuplestore_begin_heap((info->allowedModes & SFRM_Materialize_Random) != 0,
											false, memory);
	MemoryContextSwitchTo(old);
}

static void
put_components(Forest *forest, FunctionCallInfo fcinfo)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		i;
	uint64		rows = 0;
	Datum		values[2] = {(Datum) 0, (Datum) 0};
	bool		nulls[2] = {false, false};
	HeapTuple	row = heap_form_tuple(info->setDesc, values, nulls);
	char	   *numbers = (char *) row->t_data + row->t_data->t_hoff;

	for (i = 0; i < forest->n; i++)
		rows += forest->parents[i] != NOWHERE;
	begin_result(fcinfo, rows);

	/* all rows look alike: only the numbers differ */
	for (i = 0; i < forest->n; i++)
	{
		int64		pair[2];

		if (forest->parents[i] == NOWHERE)
			continue;
		pair[0] = node_at(forest, (uint32) i);
		pair[1] = node_at(forest, root_of(forest, (uint32) i));
		memcpy(numbers, pair, sizeof(pair));
		tuplestore_puttuple(info->setResult, row);
		if ((i & 0xFFFF) == 0)
			CHECK_FOR_INTERRUPTS();
	}
}

static AttrNumber
bigint_column(Oid relid, const char *name)
{
	AttrNumber	column = get_attnum(relid, name);

	if (column == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, get_rel_name(relid))));
	if (get_atttype(relid, column) != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" is not of type bigint",
						name, get_rel_name(relid))));
	return column;
}

/*
 * Where a column stands in the rows of a heap that have no NULL; -1: that depends on
 * the row.
 */
static int
place_of_column(TupleDesc desc, AttrNumber column)
{
	int			place = 0;

	for (int i = 0; i < column; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (attribute->attlen <= 0)
			return -1;
		place = att_align_nominal(place, attribute->attalign);
		if (i + 1 < column)
			place += attribute->attlen;
	}
	return place;
}

/*
 * All edges of a table.  Most come from a heap whose rows have both ends at the same
 * place: then these are read there, without a slot.
 */
static void
scan_edges(Forest *forest, Relation relation, AttrNumber a, AttrNumber b)
{
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	TableScanDesc scan = table_beginscan(relation, GetActiveSnapshot(), 0, NULL);
	int			last = Max(a, b);
	int			place_a = place_of_column(RelationGetDescr(relation), a);
	int			place_b = place_of_column(RelationGetDescr(relation), b);

	if (relation->rd_rel->relam == HEAP_TABLE_AM_OID && place_a >= 0 && place_b >= 0)
	{
		HeapTuple	tuple;

		while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		{
			HeapTupleHeader row = tuple->t_data;
			char	   *values = (char *) row + row->t_hoff;

			if (!HeapTupleHasNulls(tuple) && HeapTupleHeaderGetNatts(row) >= last)
				add_edge(forest, *(int64 *) (values + place_a), *(int64 *) (values + place_b));
			else
			{
				bool		no_a;
				bool		no_b;
				Datum		x = heap_getattr(tuple, a, RelationGetDescr(relation), &no_a);
				Datum		y = heap_getattr(tuple, b, RelationGetDescr(relation), &no_b);

				if (!no_a && !no_b)
					add_edge(forest, DatumGetInt64(x), DatumGetInt64(y));
			}
		}
	}
	else
	{
		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			slot_getsomeattrs(slot, last);
			if (!slot->tts_isnull[a - 1] && !slot->tts_isnull[b - 1])
				add_edge(forest, DatumGetInt64(slot->tts_values[a - 1]),
						 DatumGetInt64(slot->tts_values[b - 1]));
		}
	}
	end_edges(forest);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * cdp.graph_components(edges regclass, a name, b name)
 *		returns table (node bigint, component bigint)
 */
Datum
cdp_graph_components(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	relation;
	AttrNumber	a;
	AttrNumber	b;
	Forest		forest;
	AclResult	acl;

	InitMaterializedSRF(fcinfo, 0);
	relation = table_open(relid, AccessShareLock);
	if (relation->rd_rel->relkind != RELKIND_RELATION &&
		relation->rd_rel->relkind != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(relation)),
				 errhint("Give a query instead.")));
	acl = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, RelationGetRelationName(relation));
	if (check_enable_rls(relid, InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" has row-level security", RelationGetRelationName(relation)),
				 errhint("Give a query instead.")));
	a = bigint_column(relid, NameStr(*PG_GETARG_NAME(1)));
	b = bigint_column(relid, NameStr(*PG_GETARG_NAME(2)));

	memset(&forest, 0, sizeof(forest));
	forest.context = AllocSetContextCreate(CurrentMemoryContext, "components",
										   ALLOCSET_DEFAULT_SIZES);
	forest.expected = (uint64) RelationGetNumberOfBlocks(relation) * ROWS_A_BLOCK;
	scan_edges(&forest, relation, a, b);
	table_close(relation, AccessShareLock);
	put_components(&forest, fcinfo);
	MemoryContextDelete(forest.context);
	return (Datum) 0;
}

/*
 * cdp.graph_components(query text) returns table (node bigint, component bigint)
 */
Datum
cdp_graph_components_query(PG_FUNCTION_ARGS)
{
	char	   *query = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SPIPlanPtr	plan;
	Portal		portal;
	Forest		forest;

	InitMaterializedSRF(fcinfo, 0);
	memset(&forest, 0, sizeof(forest));
	forest.context = AllocSetContextCreate(CurrentMemoryContext, "components",
										   ALLOCSET_DEFAULT_SIZES);
	SPI_connect();
	plan = SPI_prepare(query, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	if (!SPI_is_cursor_plan(plan))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("not a query that returns rows")));
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	for (;;)
	{
		uint64		i;

		SPI_cursor_fetch(portal, true, 1000);
		if (SPI_processed == 0)
			break;
		if (SPI_tuptable->tupdesc->natts != 2 ||
			TupleDescAttr(SPI_tuptable->tupdesc, 0)->atttypid != INT8OID ||
			TupleDescAttr(SPI_tuptable->tupdesc, 1)->atttypid != INT8OID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("the query must return two columns of type bigint")));
		for (i = 0; i < SPI_processed; i++)
		{
			bool		no_a;
			bool		no_b;
			Datum		x = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &no_a);
			Datum		y = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &no_b);

			if (!no_a && !no_b)
				add_edge(&forest, DatumGetInt64(x), DatumGetInt64(y));
		}
		SPI_freetuptable(SPI_tuptable);
	}
	end_edges(&forest);
	SPI_cursor_close(portal);
	SPI_finish();
	put_components(&forest, fcinfo);
	MemoryContextDelete(forest.context);
	return (Datum) 0;
}
