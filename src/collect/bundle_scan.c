/*-------------------------------------------------------------------------
 *
 * bundle_scan.c
 *	  Packed entries as rows of the log: cdp.events_packed, a partition of
 *	  cdp.events, is a foreign table whose rows are those of cdp.bundles
 *	  unpacked.
 *
 *	  So whatever reads cdp.events, by whatever condition, reads packed entries,
 *	  too.  An entry is found by its transaction and number in the index of
 *	  cdp.bundles; transactions between two are; for others all bundles are
 *	  read, and unpacked if their numbers are such that they may have it.
 *	  Conditions are checked once more by the executor, whatever was made of
 *	  them here.  ctid is the place of the bundle.
 *
 * IDENTIFICATION
 *	  src/collect/bundle_scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "cdp.h"
#include "collect/bundle.h"
#include "compat.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_is_packed);
PG_FUNCTION_INFO_V1(cdp_bundle_handler);

/* entries that a bundle has, as far as the planner is concerned */
#define USUAL_COUNT 80
#define USUAL_IN_BLOCK (4 * USUAL_COUNT)

/*
 * cdp.is_packed(id bigint) returns boolean: which of the two parts of cdp.events
 * a row goes to that is appended, and that is always the one of rows.  The
 * planner must not know that it is false for all rows that it asks for: those
 * of the other part are there.
 */
Datum
cdp_is_packed(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(false);
}

/* ---- conditions ---- */

typedef enum KeyRole
{
	KEY_XID = 0, /* plus a strategy of btrees */
	KEY_ID = 10, /* the same */
	KEY_PLACE = 20, /* the same, of ctid */
	KEY_IDS = 30 /* one of an array */
} KeyRole;

/* What is known of the entries that are asked for. */
typedef struct Wanted
{
	List *exprs;
	List *roles; /* of each of exprs */
	bool none; /* no packed entry is such */
	bool by_xid; /* of one transaction ... */
	bool by_id; /* ... one */
} Wanted;

static bool
is_column(Node *node, Index relid, AttrNumber number)
{
	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return node != NULL && IsA(node, Var) && ((Var *) node)->varno == relid &&
		((Var *) node)->varattno == number && ((Var *) node)->varlevelsup == 0;
}

/*
 * What is NULL in all packed entries.
 */
static bool
is_null(Node *node, Index relid)
{
	if (is_column(node, relid, CDP_EVENTS_MESSAGE_ID + 1) ||
		is_column(node, relid, CDP_EVENTS_CONTEXT + 1))
		return true;
	if (IsA(node, FuncExpr) && list_length(((FuncExpr *) node)->args) == 2 &&
		is_null(lsecond(((FuncExpr *) node)->args), relid))
	{
		Oid function = ((FuncExpr *) node)->funcid;
		char *name = get_func_name(function);

		return name != NULL && strcmp(name, "message_hash") == 0 &&
			get_func_namespace(function) == CdpSchemaOid();
	}
	return false;
}

static void
add_key(PlannerInfo *root, Wanted *wanted, Index relid, Node *expr, Oid type, int role)
{
	if (exprType(expr) != type || bms_is_member(relid, pull_varnos(root, expr)) ||
		contain_volatile_functions(expr))
		return;
	wanted->exprs = lappend(wanted->exprs, expr);
	wanted->roles = lappend_int(wanted->roles, role);
	if (role == KEY_XID + BTEqualStrategyNumber)
		wanted->by_xid = true;
	if (role == KEY_ID + BTEqualStrategyNumber)
		wanted->by_id = true;
}

static int
strategy_of(Oid operator, Oid type)
{
	if (type == INT8OID)
		return get_op_opfamily_strategy(operator, INTEGER_BTREE_FAM_OID);
	switch (get_opcode(operator))
	{
		case F_TIDLT:
			return BTLessStrategyNumber;
		case F_TIDLE:
			return BTLessEqualStrategyNumber;
		case F_TIDGT:
			return BTGreaterStrategyNumber;
		case F_TIDGE:
			return BTGreaterEqualStrategyNumber;
		default:
			return 0;
	}
}

static void
take_comparison(PlannerInfo *root, Wanted *wanted, Index relid, OpExpr *clause)
{
	static const struct
	{
		AttrNumber column;
		Oid type;
		int role;
	} columns[] = {
		{ CDP_EVENTS_XID + 1, INT8OID, KEY_XID },
		{ CDP_EVENTS_ID + 1, INT8OID, KEY_ID },
		{ SelfItemPointerAttributeNumber, TIDOID, KEY_PLACE }
	};
	Node *left;
	Node *right;

	if (list_length(clause->args) != 2)
		return;
	left = linitial(clause->args);
	right = lsecond(clause->args);
	if (op_strict(clause->opno) && (is_null(left, relid) || is_null(right, relid)))
	{
		wanted->none = true;
		return;
	}
	for (int i = 0; i < lengthof(columns); i++)
	{
		Oid operator= clause->opno;
		Node *other = right;
		int strategy;

		if (is_column(right, relid, columns[i].column))
		{
			operator= get_commutator(operator);
			other = left;
		}
		else if (!is_column(left, relid, columns[i].column))
			continue;
		strategy = OidIsValid(operator) ? strategy_of(operator, columns[i].type) : 0;
		if (strategy > 0)
			add_key(root, wanted, relid, other, columns[i].type, columns[i].role + strategy);
	}
}

/*
 * Of a comparison of rows what it says of their first columns.
 */
static void
take_row_comparison(PlannerInfo *root, Wanted *wanted, Index relid, RowCompareExpr *clause)
{
	int strategy = strategy_of(linitial_oid(clause->opnos), INT8OID);

	if (!is_column(linitial(clause->largs), relid, CDP_EVENTS_XID + 1))
		return;
	if (strategy == BTGreaterStrategyNumber || strategy == BTGreaterEqualStrategyNumber)
		strategy = BTGreaterEqualStrategyNumber;
	else if (strategy == BTLessStrategyNumber || strategy == BTLessEqualStrategyNumber)
		strategy = BTLessEqualStrategyNumber;
	else
		return;
	add_key(root, wanted, relid, linitial(clause->rargs), INT8OID, KEY_XID + strategy);
}

static void
take_clause(PlannerInfo *root, Wanted *wanted, Index relid, Expr *clause)
{
	if (IsA(clause, OpExpr))
		take_comparison(root, wanted, relid, (OpExpr *) clause);
	else if (IsA(clause, RowCompareExpr))
		take_row_comparison(root, wanted, relid, (RowCompareExpr *) clause);
	else if (IsA(clause, NullTest))
	{
		NullTest *test = (NullTest *) clause;

		if (test->nulltesttype == IS_NOT_NULL && !test->argisrow && is_null((Node *) test->arg, relid))
			wanted->none = true;
	}
	else if (IsA(clause, ScalarArrayOpExpr))
	{
		ScalarArrayOpExpr *any = (ScalarArrayOpExpr *) clause;

		if (any->useOr && get_opcode(any->opno) == F_INT8EQ &&
			is_column(linitial(any->args), relid, CDP_EVENTS_ID + 1))
			add_key(root, wanted, relid, lsecond(any->args), INT8ARRAYOID, KEY_IDS);
	}
}

static void
take_clauses(PlannerInfo *root, Wanted *wanted, Index relid, List *clauses)
{
	ListCell *cell;

	foreach(cell, clauses)
		take_clause(root, wanted, relid, lfirst_node(RestrictInfo, cell)->clause);
}

/* ---- planning ---- */

void
CdpCheckPacked(Relation rel)
{
	static const Oid types[CDP_EVENTS_NATTS] = {
		[CDP_EVENTS_ID] = INT8OID,
		[CDP_EVENTS_MESSAGE_ID] = TEXTOID,
		[CDP_EVENTS_SOURCE] = TEXTOID,
		[CDP_EVENTS_TYPE] = TEXTOID,
		[CDP_EVENTS_EVENT] = TEXTOID,
		[CDP_EVENTS_PROPERTIES] = JSONBOID,
		[CDP_EVENTS_CONTEXT] = JSONBOID,
		[CDP_EVENTS_OCCURRED_AT] = TIMESTAMPTZOID,
		[CDP_EVENTS_RECEIVED_AT] = TIMESTAMPTZOID,
		[CDP_EVENTS_XID] = INT8OID,
		[CDP_EVENTS_INCARNATION] = INT4OID
	};
	TupleDesc desc = RelationGetDescr(rel);
	bool same = RelationGetRelid(rel) == CdpRelationOid("events_packed") && desc->natts == CDP_EVENTS_NATTS;

	for (int i = 0; same && i < CDP_EVENTS_NATTS; i++)
		same = TupleDescAttr(desc, i)->atttypid ==
			(i == CDP_EVENTS_IDENTIFIERS ? get_array_type(CdpTypeOid("identifier")) : types[i]);
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("server cdp_bundles has no foreign table but cdp.events_packed, with the columns of cdp.events")));
}

static void
get_size(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	Relation bundles;
	Relation packed = table_open(relid, NoLock);

	CdpCheckPacked(packed);
	table_close(packed, NoLock);
	bundles = table_open(CdpRelationOid("bundles"), AccessShareLock);

	rel->tuples = (double) RelationGetNumberOfBlocks(bundles) * USUAL_IN_BLOCK;
	table_close(bundles, NoLock);
	set_baserel_size_estimates(root, rel);
}

static void
add_scan_path(PlannerInfo *root, RelOptInfo *rel, Relids outer)
{
	Wanted wanted = { 0 };
	double unpacked = rel->tuples;
	double rows = rel->rows;
	Cost cost;
	Path *path;

	take_clauses(root, &wanted, rel->relid, rel->baserestrictinfo);
	if (!bms_is_empty(outer))
	{
		ParamPathInfo *param = get_baserel_parampathinfo(root, rel, outer);

		take_clauses(root, &wanted, rel->relid, param->ppi_clauses);
		rows = param->ppi_rows;
	}
	if (wanted.none)
		rows = unpacked = 0;
	else if (wanted.by_xid)
	{
		unpacked = Min(unpacked, USUAL_COUNT);
		if (wanted.by_id)
			rows = 1;
	}
	rows = clamp_row_est(rows);
	cost = cpu_index_tuple_cost * 2 + rows * cpu_tuple_cost + unpacked * cpu_operator_cost;
	if (!wanted.none && !wanted.by_xid)
		cost += seq_page_cost * unpacked / USUAL_IN_BLOCK + cpu_tuple_cost * unpacked;
	/*
	 * One that looks up by another relation's columns must not be passed over for
	 * one that does not and costs as little: without it no plan for cdp.events as
	 * a whole looks up by them.
	 */
	if (!bms_is_subset(outer, rel->lateral_relids))
		cost /= 2;
	path = (Path *) create_foreignscan_path(root, rel, NULL, rows,
#if PG_VERSION_NUM >= 180000
											0,
#endif
											0, cost, NIL, outer, NULL,
#if PG_VERSION_NUM >= 170000
											NIL,
#endif
											NIL);
	add_path(rel, path);
}

static bool
is_looked_up(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec, EquivalenceMember *member,
			 void *arg)
{
	return is_column((Node *) member->em_expr, rel->relid, CDP_EVENTS_XID + 1) ||
		is_column((Node *) member->em_expr, rel->relid, CDP_EVENTS_ID + 1) ||
		is_null((Node *) member->em_expr, rel->relid);
}

/*
 * Relations by whose columns entries may be looked up, if the clause says how.
 */
static List *
add_outer(PlannerInfo *root, RelOptInfo *rel, List *outers, RestrictInfo *clause)
{
	Wanted wanted = { 0 };
	Relids outer;
	List *result = outers;
	ListCell *cell;

	take_clause(root, &wanted, rel->relid, clause->clause);
	if (wanted.exprs == NIL && !wanted.none)
		return outers;
	outer = bms_union(clause->clause_relids, rel->lateral_relids);
	outer = bms_del_member(outer, rel->relid);
	if (bms_is_empty(outer))
		return outers;
	/* and both together, as the planner does with indexes */
	foreach(cell, outers)
	{
		Relids both = bms_union(lfirst(cell), outer);
		ListCell *known;
		bool there = list_length(result) > 8;

		foreach(known, result)
			there = there || bms_equal(lfirst(known), both);
		if (!there)
			result = lappend(result, both);
	}
	foreach(cell, result)
		if (bms_equal(lfirst(cell), outer))
			return result;
	return lappend(result, outer);
}

static void
get_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	List *outers = NIL;
	ListCell *cell;

	add_scan_path(root, rel, rel->lateral_relids);
	foreach(cell, rel->joininfo)
	{
		RestrictInfo *clause = lfirst_node(RestrictInfo, cell);

		if (join_clause_is_movable_to(clause, rel))
			outers = add_outer(root, rel, outers, clause);
	}
	if (rel->has_eclass_joins)
		foreach(cell, generate_implied_equalities_for_column(root, rel, is_looked_up, NULL, rel->lateral_referencers))
		{
			RestrictInfo *clause = lfirst_node(RestrictInfo, cell);

			if (join_clause_is_movable_to(clause, rel))
				outers = add_outer(root, rel, outers, clause);
		}
	foreach(cell, outers)
		add_scan_path(root, rel, lfirst(cell));
}

static ForeignScan *
get_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path, List *tlist,
		 List *clauses, Plan *outer_plan)
{
	Wanted wanted = { 0 };

	take_clauses(root, &wanted, rel->relid, clauses);
	return make_foreignscan(tlist, extract_actual_clauses(clauses, false), rel->relid,
							wanted.none ? NIL : wanted.exprs,
							wanted.none ? list_make1_int(-1) : wanted.roles,
							NIL, NIL, outer_plan);
}

/* ---- reading ---- */

typedef struct PackedScan
{
	List *exprs; /* ExprState * */
	List *roles;
	bool none;
	bool started;
	bool ended; /* nothing, or nothing more */
	bool system; /* columns of the system are asked for */
	CdpBundleScan *scan;
	bool reading; /* there is a bundle */
	CdpBundleRow row;
	ItemPointerData place;
	CdpBundleReader reader;
	int64 xid_from; /* both included */
	int64 xid_until;
	int64 id_from;
	int64 id_until;
	int64 block_from;
	int64 block_until; /* excluded */
	int64 *ids; /* in order; NULL: any */
	int nids;
	MemoryContext keys;
	MemoryContext bundle;
	MemoryContext entry;
} PackedScan;

static void
begin_scan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	PackedScan *state = palloc0(sizeof(PackedScan));

	node->fdw_state = state;
	CdpCheckPacked(node->ss.ss_currentRelation);
	state->system = plan->fsSystemCol;
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	state->none = plan->fdw_private != NIL && linitial_int(plan->fdw_private) == -1;
	state->roles = plan->fdw_private;
	state->exprs = state->none ? NIL : ExecInitExprList(plan->fdw_exprs, &node->ss.ps);
}

static void
narrow(int64 *from, int64 *until, int strategy, int64 value)
{
	if (strategy == BTEqualStrategyNumber || strategy == BTGreaterEqualStrategyNumber)
		*from = Max(*from, value);
	if (strategy == BTEqualStrategyNumber || strategy == BTLessEqualStrategyNumber)
		*until = Min(*until, value);
	if (strategy == BTGreaterStrategyNumber)
	{
		if (value == PG_INT64_MAX)
			*until = PG_INT64_MIN;
		else
			*from = Max(*from, value + 1);
	}
	if (strategy == BTLessStrategyNumber)
	{
		if (value == PG_INT64_MIN)
			*from = PG_INT64_MAX;
		else
			*until = Min(*until, value - 1);
	}
}

static void
take_ids(PackedScan *state, ArrayType *array)
{
	Datum *elements;
	bool *nulls;
	int n;

	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &elements, &nulls, &n);
	state->ids = palloc_array(int64, Max(n, 1));
	state->nids = 0;
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			state->ids[state->nids++] = DatumGetInt64(elements[i]);
	qsort(state->ids, state->nids, sizeof(int64), CdpCompareInt8);
}

/*
 * What the conditions ask for, by the values that their expressions have now;
 * false: nothing.
 */
static bool
take_keys(ForeignScanState *node, PackedScan *state)
{
	ExprContext *context = node->ss.ps.ps_ExprContext;
	MemoryContext old;
	ListCell *expr;
	ListCell *role;

	state->xid_from = state->id_from = PG_INT64_MIN;
	state->xid_until = state->id_until = PG_INT64_MAX;
	state->block_from = 0;
	state->block_until = InvalidBlockNumber;
	state->ids = NULL;
	MemoryContextReset(state->keys);
	old = MemoryContextSwitchTo(state->keys);
	forboth(expr, state->exprs, role, state->roles)
	{
		bool isnull;
		Datum value = ExecEvalExprSwitchContext(lfirst(expr), context, &isnull);
		int kind = lfirst_int(role) / 10 * 10;
		int strategy = lfirst_int(role) % 10;

		if (isnull)
		{
			MemoryContextSwitchTo(old);
			return false;
		}
		if (kind == KEY_XID)
			narrow(&state->xid_from, &state->xid_until, strategy, DatumGetInt64(value));
		else if (kind == KEY_ID)
			narrow(&state->id_from, &state->id_until, strategy, DatumGetInt64(value));
		else if (kind == KEY_IDS)
			take_ids(state, DatumGetArrayTypeP(value));
		else
		{
			/* whole blocks; the condition itself is looked at later */
			int64 block = ItemPointerGetBlockNumberNoCheck((ItemPointer) DatumGetPointer(value));
			bool begins = ItemPointerGetOffsetNumberNoCheck((ItemPointer) DatumGetPointer(value)) == 0;

			if (strategy == BTGreaterStrategyNumber || strategy == BTGreaterEqualStrategyNumber)
				state->block_from = Max(state->block_from, block);
			else
				state->block_until = Min(state->block_until, begins ? block : block + 1);
		}
	}
	MemoryContextSwitchTo(old);
	return state->xid_from <= state->xid_until && state->id_from <= state->id_until &&
		state->block_from < state->block_until && (state->ids == NULL || state->nids > 0);
}

/*
 * Only where there are bundles, which most databases never have.
 */
static void
make_contexts(PackedScan *state)
{
	state->keys = AllocSetContextCreate(CurrentMemoryContext, "cdp packed keys", ALLOCSET_SMALL_SIZES);
	state->bundle = AllocSetContextCreate(CurrentMemoryContext, "cdp bundle", ALLOCSET_SMALL_SIZES);
	state->entry = AllocSetContextCreate(CurrentMemoryContext, "cdp packed entry", ALLOCSET_SMALL_SIZES);
}

static void
start(ForeignScanState *node, PackedScan *state)
{
	MemoryContext old = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);
	ScanKeyData keys[3];
	int n = 0;

	state->started = true;
	state->reading = false;
	state->ended = state->none;
	if (!state->ended && state->scan == NULL)
	{
		state->scan = CdpBundleScanBegin(node->ss.ps.state->es_snapshot);
		/* what comes is not seen by the snapshot */
		state->none = state->scan == NULL;
		state->ended = state->none;
		if (!state->ended)
			make_contexts(state);
	}
	if (!state->ended)
		state->ended = !take_keys(node, state);
	if (state->ended)
	{
		MemoryContextSwitchTo(old);
		return;
	}
	if (state->xid_from == state->xid_until)
	{
		ScanKeyInit(&keys[n++], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(state->xid_from));
		ScanKeyInit(&keys[n++], 2, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(state->id_from));
	}
	else
	{
		if (state->xid_from > PG_INT64_MIN)
			ScanKeyInit(&keys[n++], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(state->xid_from));
		if (state->xid_until < PG_INT64_MAX)
			ScanKeyInit(&keys[n++], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(state->xid_until));
	}
	if (n > 0)
		CdpBundleScanKeys(state->scan, keys, n);
	else
		CdpBundleScanBlocks(state->scan, (BlockNumber) state->block_from, (BlockNumber) state->block_until);
	MemoryContextSwitchTo(old);
}

/*
 * May the bundle have an entry that is asked for?
 */
static bool
may_have(PackedScan *state)
{
	int low = 0;
	int high = state->nids;

	if (state->row.last < state->id_from || state->row.first > state->id_until ||
		state->row.xid < state->xid_from || state->row.xid > state->xid_until)
		return false;
	if (state->ids == NULL)
		return true;
	while (low < high)
	{
		int middle = (low + high) / 2;

		if (state->ids[middle] < state->row.first)
			low = middle + 1;
		else
			high = middle;
	}
	return low < state->nids && state->ids[low] <= state->row.last;
}

static bool
is_wanted(PackedScan *state, int64 id)
{
	return id >= state->id_from && id <= state->id_until &&
		(state->ids == NULL ||
		 bsearch(&id, state->ids, state->nids, sizeof(int64), CdpCompareInt8) != NULL);
}

/*
 * An entry whose place is asked for; no transaction has written it as a row.
 */
static void
store_heap_tuple(PackedScan *state, TupleTableSlot *slot)
{
	HeapTuple tuple;
	MemoryContext old = MemoryContextSwitchTo(state->entry);

	tuple = heap_form_tuple(slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull);
	tuple->t_self = state->place;
	HeapTupleHeaderSetXmin(tuple->t_data, InvalidTransactionId);
	HeapTupleHeaderSetXmax(tuple->t_data, InvalidTransactionId);
	HeapTupleHeaderSetCmin(tuple->t_data, InvalidTransactionId);
	ExecStoreHeapTuple(tuple, slot, false);
	MemoryContextSwitchTo(old);
}

static TupleTableSlot *
iterate(ForeignScanState *node)
{
	PackedScan *state = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	CdpBundleItem item;
	MemoryContext old;

	ExecClearTuple(slot);
	if (!state->started)
		start(node, state);
	if (state->ended)
		return slot;
	MemoryContextReset(state->entry);
	for (;;)
	{
		bytea *packed;

		if (state->reading)
		{
			while (CdpBundleReaderNext(&state->reader, &item) && item.id <= state->id_until)
				if (is_wanted(state, item.id))
				{
					old = MemoryContextSwitchTo(state->entry);
					CdpBundleItemRow(&state->reader, &state->row, &item, slot->tts_values, slot->tts_isnull);
					MemoryContextSwitchTo(old);
					if (state->system)
						store_heap_tuple(state, slot);
					else
						ExecStoreVirtualTuple(slot);
					slot->tts_tid = state->place;
					return slot;
				}
			state->reading = false;
			/* those of a transaction are in order, and none is in two of them */
			if (state->xid_from == state->xid_until && CdpBundleScanIndexed(state->scan) &&
				state->row.last >= state->id_until)
			{
				state->ended = true;
				return slot;
			}
		}
		if (!CdpBundleScanNext(state->scan, &state->row, &packed, &state->place))
		{
			state->ended = true;
			return slot;
		}
		if (!may_have(state))
			continue;
		MemoryContextReset(state->bundle);
		old = MemoryContextSwitchTo(state->bundle);
		CdpBundleReaderBegin(&state->reader, &state->row, packed);
		MemoryContextSwitchTo(old);
		state->reading = true;
	}
}

static void
rescan(ForeignScanState *node)
{
	((PackedScan *) node->fdw_state)->started = false;
}

static void
end_scan(ForeignScanState *node)
{
	PackedScan *state = node->fdw_state;

	if (state != NULL)
		CdpBundleScanEnd(state->scan);
}

static bool
parallel_safe(PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte)
{
	return true;
}

/*
 * cdp.bundle_handler() returns fdw_handler
 */
Datum
cdp_bundle_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = get_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = iterate;
	routine->ReScanForeignScan = rescan;
	routine->EndForeignScan = end_scan;
	routine->IsForeignScanParallelSafe = parallel_safe;
	CdpBundleChangeRoutine(routine);
	PG_RETURN_POINTER(routine);
}
