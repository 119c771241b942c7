/*-------------------------------------------------------------------------
 *
 * bundle_change.c
 *	  DELETE and UPDATE of packed entries, and TRUNCATE: an entry that goes or
 *	  changes leaves its bundle.
 *
 *	  The log is written once; what erases, expires, releases or tries again
 *	  goes through here.  An entry that changes becomes a row of
 *	  cdp.events_rows.  If it is the one that counts for the row of the
 *	  attached table, cdp.attached_rows knows it from then on.
 *
 *	  Bundles are written at the end of the statement, each once, whatever the
 *	  number of its entries that leave.
 *
 * IDENTIFICATION
 *	  src/collect/bundle_change.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/appendinfo.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "cdp.h"
#include "collect/bundle.h"
#include "compat.h"
#include "statement.h"

#define ID_NAME "cdp_packed_id"

static CdpStatement read_bundle = {
	"SELECT b.xid, b.last, b.first, b.received_at, b.attachment, b.incarnation, b.packed"
	" FROM cdp.bundles b WHERE b.ctid = $1",
	{ "tid" }
};

static CdpStatement write_bundle = {
	"UPDATE cdp.bundles b SET last = $2, first = $3, packed = $4 WHERE b.ctid = $1",
	{ "tid", "int8", "int8", "bytea" }
};

static CdpStatement delete_bundle = {
	"DELETE FROM cdp.bundles b WHERE b.ctid = $1",
	{ "tid" }
};

static CdpStatement insert_rows = {
	"INSERT INTO cdp.events (id, message_id, source, type, event, identifiers, properties, context,"
	" occurred_at, received_at, xid, incarnation) SELECT g.* FROM given AS g",
	.given = { { "id", "int8" }, { "message_id", "text" }, { "source", "text" }, { "type", "text" }, { "event", "text" }, { "identifiers", "cdp.identifier[]" }, { "properties", "jsonb" }, { "context", "jsonb" }, { "occurred_at", "timestamptz" }, { "received_at", "timestamptz" }, { "xid", "int8" }, { "incarnation", "int4" } }
};

/* those that count for their rows are looked for there first from now on */
static CdpStatement know_rows = {
	"INSERT INTO cdp.attached_rows (attachment, key, hash, entry, at)"
	" SELECT d.id, k.key, k.hash, k.entry, CASE WHEN k.at > cdp.clock() THEN k.at END"
	" FROM cdp.attachment_definitions d"
	" CROSS JOIN LATERAL cdp.bundled_rows(d.version, ARRAY("
	"SELECT u.key FROM unnest($2) AS u (key) WHERE NOT EXISTS"
	" (SELECT FROM cdp.attached_rows r WHERE r.attachment = d.id AND r.key = u.key))) AS k"
	" WHERE d.version = $1 AND k.entry = ANY ($3)"
	" ON CONFLICT (attachment, key) DO NOTHING",
	{ "int8", "bytea[]", "int8[]" }
};

typedef struct Leaving
{
	ItemPointerData place;
	int64 id;
} Leaving;

typedef struct LeavingKeys
{
	int64 attachment;
	Datum *keys;
	int n;
	int allocated;
} LeavingKeys;

typedef struct ChangeState
{
	AttrNumber place; /* in what the plan yields */
	AttrNumber id;
	bool update;
	Leaving *leaving;
	int n;
	int allocated;
	Tuplestorestate *changed; /* rows of cdp.events_packed */
	List *keys; /* LeavingKeys * */
	MemoryContext context;
} ChangeState;

static void
add_targets(PlannerInfo *root, Index index, RangeTblEntry *entry, Relation rel)
{
	Var *var = makeVar(index, SelfItemPointerAttributeNumber, TIDOID, -1, InvalidOid, 0);

	add_row_identity_var(root, var, index, "ctid");
	var = makeVar(index, CDP_EVENTS_ID + 1, INT8OID, -1, InvalidOid, 0);
	add_row_identity_var(root, var, index, ID_NAME);
}

static void
begin_change(ModifyTableState *node, ResultRelInfo *info, List *private, int subplan, int eflags)
{
	ChangeState *state;
	Plan *plan = outerPlanState(node)->plan;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	state = palloc0(sizeof(ChangeState));
	state->update = node->operation == CMD_UPDATE;
	state->place = ExecFindJunkAttributeInTlist(plan->targetlist, "ctid");
	state->id = ExecFindJunkAttributeInTlist(plan->targetlist, ID_NAME);
	if (!AttributeNumberIsValid(state->place) || !AttributeNumberIsValid(state->id))
		elog(ERROR, "could not find the place of a packed entry");
	state->context = CurrentMemoryContext;
	info->ri_FdwState = state;
}

static void
leave(ChangeState *state, TupleTableSlot *plan_slot)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	bool isnull[2];
	Datum place = ExecGetJunkAttribute(plan_slot, state->place, &isnull[0]);
	Datum id = ExecGetJunkAttribute(plan_slot, state->id, &isnull[1]);

	if (isnull[0] || isnull[1])
		elog(ERROR, "a packed entry has no place");
	if (state->n == state->allocated)
	{
		state->allocated = Max(state->allocated * 2, 64);
		state->leaving = state->leaving == NULL ? palloc_array(Leaving, state->allocated) : repalloc_huge(state->leaving, sizeof(Leaving) * state->allocated);
	}
	state->leaving[state->n].place = *(ItemPointer) DatumGetPointer(place);
	state->leaving[state->n++].id = DatumGetInt64(id);
	MemoryContextSwitchTo(old);
}

/*
 * The entry that goes, for RETURNING.
 */
static void
store_entry(EState *estate, Leaving *leaving, TupleTableSlot *slot)
{
	Relation rel = table_open(CdpRelationOid("bundles"), AccessShareLock);
	TupleTableSlot *bundle = table_slot_create(rel, NULL);
	MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	CdpBundleRow row;
	CdpBundleReader reader;
	CdpBundleItem item;

	if (!table_tuple_fetch_row_version(rel, &leaving->place, estate->es_snapshot, bundle))
		elog(ERROR, "could not read a packed entry");
	CdpBundleReaderBegin(&reader, &row, CdpBundleFromSlot(bundle, &row));
	while (CdpBundleReaderNext(&reader, &item))
		if (item.id == leaving->id)
		{
			CdpBundleItemRow(&reader, &row, &item, slot->tts_values, slot->tts_isnull);
			ExecStoreVirtualTuple(slot);
			break;
		}
	ExecMaterializeSlot(slot);
	MemoryContextSwitchTo(old);
	ExecDropSingleTupleTableSlot(bundle);
	table_close(rel, NoLock);
}

static TupleTableSlot *
delete_entry(EState *estate, ResultRelInfo *info, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	ChangeState *state = info->ri_FdwState;

	leave(state, plan_slot);
	ExecClearTuple(slot);
	if (info->ri_projectReturning != NULL)
		store_entry(estate, &state->leaving[state->n - 1], slot);
	return slot;
}

static TupleTableSlot *
update_entry(EState *estate, ResultRelInfo *info, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	ChangeState *state = info->ri_FdwState;
	MemoryContext old;

	leave(state, plan_slot);
	old = MemoryContextSwitchTo(state->context);
	if (state->changed == NULL)
		state->changed = tuplestore_begin_heap(false, false, work_mem);
	tuplestore_puttupleslot(state->changed, slot);
	MemoryContextSwitchTo(old);
	return slot;
}

static int
compare_leaving(const void *a, const void *b)
{
	const Leaving *x = a;
	const Leaving *y = b;
	int cmp = ItemPointerCompare(unconstify(ItemPointerData *, &x->place), unconstify(ItemPointerData *, &y->place));

	return cmp != 0 ? cmp : CdpCompareInt8(&x->id, &y->id);
}

/*
 * The keys of rows whose entries are among these.
 */
static Datum *
keys_of(const CdpBundleRow *row, bytea *packed, const int64 *ids, int n, int *nkeys)
{
	CdpBundleReader reader;
	CdpBundleItem item;
	Datum *keys = palloc_array(Datum, n);

	*nkeys = 0;
	CdpBundleReaderBegin(&reader, row, packed);
	while (CdpBundleReaderNext(&reader, &item))
		if (!item.undo && bsearch(&item.id, ids, n, sizeof(int64), CdpCompareInt8) != NULL)
			keys[(*nkeys)++] = PointerGetDatum(CdpBundleItemKey(&item));
	return keys;
}

/*
 * Those of the bundle that leave it, and stay in the log: which counts for a row?
 */
static void
know(const CdpBundleRow *row, bytea *packed, const int64 *ids, int n)
{
	int nkeys;
	Datum *keys = keys_of(row, packed, ids, n, &nkeys);
	Datum args[3];

	if (nkeys == 0)
		return;
	args[0] = Int64GetDatum(row->attachment);
	args[1] = CdpVarlenaArray(keys, NULL, nkeys, BYTEAOID);
	args[2] = CdpInt8Array(ids, n);
	CdpRunHere(&know_rows, args, NULL);
}

/*
 * Keep the keys of what leaves, by attachment, until all bundles are written.
 */
static void
leave_keys(ChangeState *state, int64 attachment, const CdpBundleRow *row, bytea *packed,
		   const int64 *ids, int n)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	int nkeys;
	Datum *keys = keys_of(row, packed, ids, n, &nkeys);
	ListCell *cell;
	LeavingKeys *of = NULL;

	foreach(cell, state->keys)
		if (((LeavingKeys *) lfirst(cell))->attachment == attachment)
			of = lfirst(cell);
	if (of == NULL)
	{
		of = palloc0(sizeof(LeavingKeys));
		of->attachment = attachment;
		state->keys = lappend(state->keys, of);
	}
	if (of->n + nkeys > of->allocated)
	{
		of->allocated = Max(of->allocated * 2, of->n + nkeys);
		of->keys = of->keys == NULL ? palloc_array(Datum, of->allocated) : repalloc_huge(of->keys, sizeof(Datum) * of->allocated);
	}
	if (nkeys > 0)
		memcpy(of->keys + of->n, keys, sizeof(Datum) * nkeys);
	of->n += nkeys;
	pfree(keys);
	MemoryContextSwitchTo(old);
}

static void
write_one(ChangeState *state, const Leaving *leaving, int n, bool knowing)
{
	int64 *ids = palloc_array(int64, n);
	CdpBundleRow row;
	Datum args[4];
	bytea *packed;
	bool isnull;

	for (int i = 0; i < n; i++)
		ids[i] = leaving[i].id;
	args[0] = PointerGetDatum(&leaving->place);
	if (CdpRunHere(&read_bundle, args, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("packed entries have been changed by somebody else meanwhile")));
	row.xid = CdpCellInt8(0, CDP_BUNDLES_XID + 1);
	row.last = CdpCellInt8(0, CDP_BUNDLES_LAST + 1);
	row.first = CdpCellInt8(0, CDP_BUNDLES_FIRST + 1);
	row.received_at = DatumGetTimestampTz(CdpCell(0, CDP_BUNDLES_RECEIVED_AT + 1, &isnull));
	row.attachment = CdpCellInt8(0, CDP_BUNDLES_ATTACHMENT + 1);
	row.incarnation = DatumGetInt32(CdpCell(0, CDP_BUNDLES_INCARNATION + 1, &isnull));
	packed = (bytea *) CdpCellVarlena(0, CDP_BUNDLES_PACKED + 1, CurrentMemoryContext);
	SPI_freetuptable(SPI_tuptable);
	if (knowing)
	{
		know(&row, packed, ids, n);
		return;
	}
	leave_keys(state, row.attachment, &row, packed, ids, n);
	packed = CdpBundleWithout(&row, packed, ids, n);
	args[1] = Int64GetDatum(row.last);
	args[2] = Int64GetDatum(row.first);
	args[3] = PointerGetDatum(packed);
	if (CdpRunHere(packed == NULL ? &delete_bundle : &write_bundle, args, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("packed entries have been changed by somebody else meanwhile")));
}

/*
 * What is known of the rows is asked for before the first bundle changes.
 */
static void
write_all(ChangeState *state, bool knowing)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp leaving",
												  ALLOCSET_DEFAULT_SIZES);
	int end;

	for (int i = 0; i < state->n; i = end)
	{
		MemoryContext old = MemoryContextSwitchTo(scratch);

		for (end = i + 1; end < state->n &&
			 ItemPointerEquals(&state->leaving[end].place, &state->leaving[i].place);
			 end++)
			;
		write_one(state, state->leaving + i, end - i, knowing);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
}

static void
insert_changed(ChangeState *state, ResultRelInfo *info)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(info->ri_RelationDesc),
													&TTSOpsMinimalTuple);
	CdpGiven *given = CdpGive(&insert_rows);

	while (tuplestore_gettupleslot(state->changed, true, false, slot))
	{
		slot_getallattrs(slot);
		CdpGiveRow(given, slot->tts_values, slot->tts_isnull);
	}
	CdpRunGiven(given, NULL, NULL);
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(state->changed);
}

static void
end_change(EState *estate, ResultRelInfo *info)
{
	ChangeState *state = info->ri_FdwState;
	CdpUserContext saved;
	ListCell *cell;

	if (state == NULL || state->n == 0)
		return;
	qsort(state->leaving, state->n, sizeof(Leaving), compare_leaving);
	SPI_connect();
	CdpBecomeOwner(&saved);
	/* whatever whoever runs the statement wants for it */
	CdpPinPlans();
	(void) set_config_option("enable_nestloop", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (state->update)
		write_all(state, true);
	write_all(state, false);
	foreach(cell, state->keys)
	{
		LeavingKeys *of = lfirst(cell);

		CdpBundleForgetRows(of->attachment, of->keys, of->n);
	}
	if (state->changed != NULL)
		insert_changed(state, info);
	CdpRestoreUser(&saved);
	SPI_finish();
}

static void
truncate_bundles(List *rels, DropBehavior behavior, bool restart)
{
	CdpUserContext saved;

	SPI_connect();
	CdpBecomeOwner(&saved);
	if (SPI_execute("TRUNCATE cdp.bundles", false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not truncate cdp.bundles");
	CdpRestoreUser(&saved);
	SPI_finish();
}

void
CdpBundleChangeRoutine(FdwRoutine *routine)
{
	routine->AddForeignUpdateTargets = add_targets;
	routine->BeginForeignModify = begin_change;
	routine->ExecForeignDelete = delete_entry;
	routine->ExecForeignUpdate = update_entry;
	routine->EndForeignModify = end_change;
	routine->ExecForeignTruncate = truncate_bundles;
}
