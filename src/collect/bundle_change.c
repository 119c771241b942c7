/*-------------------------------------------------------------------------
 *
 * bundle_change.c
 *	  DELETE and UPDATE of packed entries, and TRUNCATE: an entry that goes or
 *	  changes leaves its bundle.
 *
 *	  The log is written once; what erases, expires, releases or tries again
 *	  goes through here, under the applier's lock.  An entry that changes becomes
 *	  a row of cdp.events_rows.  If it counts for the row of the attached table,
 *	  cdp.attached_rows says so from then on, as it does of all entries that are
 *	  not packed.  Who changes the row meanwhile adds its key there, too (CdpKnow):
 *	  so one of the two waits for the other.
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

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/appendinfo.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "cdp.h"
#include "collect/bundle.h"
#include "compat.h"
#include "statement.h"

#define XID_NAME "cdp_packed_xid"
#define ID_NAME "cdp_packed_id"

static CdpStatement read_bundle = {
	"SELECT b.ctid, b.xid, b.last, b.first, b.received_at, b.attachment, b.incarnation, b.packed"
	" FROM cdp.bundles b WHERE b.xid = $1 AND b.last >= $2 AND b.first <= $2 ORDER BY b.last LIMIT 1",
	{ "int8", "int8" }
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

/*
 * No bundle has these keys any more.  The entry counts for its row if nothing else
 * is known of it, be it gone or changed: whoever deletes an entry says, as of any
 * other, whether its row is to be forgotten.
 */
static CdpStatement take_keys = {
	"INSERT INTO cdp.attached_rows AS r (attachment, key, entry, hash, at)"
	" SELECT d.id, u.key, u.entry, u.hash, CASE WHEN u.at > cdp.clock() THEN u.at END"
	" FROM cdp.attachment_definitions d, (SELECT unnest($2) AS key, unnest($3) AS entry, unnest($4) AS hash,"
	" unnest($5) AS at) AS u WHERE d.version = $1 ORDER BY u.key"
	" ON CONFLICT (attachment, key) DO UPDATE SET packed = false",
	{ "int8", "bytea[]", "int8[]", "int8[]", "timestamptz[]" }
};

/* that nothing counts need not be said where nothing is packed */
static CdpStatement forget_keys = {
	"DELETE FROM cdp.attached_rows r USING cdp.attachment_definitions d, unnest($2) AS u (key)"
	" WHERE d.version = $1 AND r.attachment = d.id AND r.key = u.key AND r.entry = 0 AND NOT r.packed",
	{ "int8", "bytea[]" }
};

typedef struct Leaving
{
	int64 xid;
	int64 id;
} Leaving;

typedef struct ChangeState
{
	AttrNumber xid; /* in what the plan yields */
	AttrNumber id;
	HTAB *met; /* Leaving */
	Leaving *leaving;
	int n;
	int allocated;
	Tuplestorestate *changed; /* rows of cdp.events_packed */
	MemoryContext context;
} ChangeState;

static void
add_targets(PlannerInfo *root, Index index, RangeTblEntry *entry, Relation rel)
{
	Var *var = makeVar(index, CDP_EVENTS_XID + 1, INT8OID, -1, InvalidOid, 0);

	add_row_identity_var(root, var, index, XID_NAME);
	var = makeVar(index, CDP_EVENTS_ID + 1, INT8OID, -1, InvalidOid, 0);
	add_row_identity_var(root, var, index, ID_NAME);
}

static void
begin_change(ModifyTableState *node, ResultRelInfo *info, List *private, int subplan, int eflags)
{
	HASHCTL control = { .keysize = sizeof(Leaving), .entrysize = sizeof(Leaving), .hcxt = CurrentMemoryContext };
	ChangeState *state;
	Plan *plan = outerPlanState(node)->plan;

	CdpCheckPacked(info->ri_RelationDesc);
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	state = palloc0(sizeof(ChangeState));
	state->xid = ExecFindJunkAttributeInTlist(plan->targetlist, XID_NAME);
	state->id = ExecFindJunkAttributeInTlist(plan->targetlist, ID_NAME);
	if (!AttributeNumberIsValid(state->xid) || !AttributeNumberIsValid(state->id))
		elog(ERROR, "could not find the place of a packed entry");
	state->context = CurrentMemoryContext;
	state->met = hash_create("cdp packed entries", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	info->ri_FdwState = state;
}

/*
 * False: the statement has changed the entry already, which counts as it does for
 * any row.
 */
static bool
leave(ChangeState *state, TupleTableSlot *plan_slot)
{
	bool isnull[2];
	Leaving one;
	bool met;

	memset(&one, 0, sizeof(one));
	one.xid = DatumGetInt64(ExecGetJunkAttribute(plan_slot, state->xid, &isnull[0]));
	one.id = DatumGetInt64(ExecGetJunkAttribute(plan_slot, state->id, &isnull[1]));
	if (isnull[0] || isnull[1])
		elog(ERROR, "a packed entry has no place");
	(void) hash_search(state->met, &one, HASH_ENTER, &met);
	if (met)
		return false;
	if (state->n == state->allocated)
	{
		MemoryContext old = MemoryContextSwitchTo(state->context);

		state->allocated = Max(state->allocated * 2, 64);
		state->leaving = state->leaving == NULL ? palloc_array(Leaving, state->allocated) : repalloc_huge(state->leaving, sizeof(Leaving) * state->allocated);
		MemoryContextSwitchTo(old);
	}
	state->leaving[state->n++] = one;
	return true;
}

pg_noreturn static void
has_left(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("packed entries have been changed by another statement meanwhile"),
			 errhint("Let one statement change an entry of cdp.events once, and take cdp.lock_applier() before.")));
}

static void
read_row(uint64 i, int col, CdpBundleRow *row)
{
	bool isnull;

	row->xid = CdpCellInt8(i, col + CDP_BUNDLES_XID);
	row->last = CdpCellInt8(i, col + CDP_BUNDLES_LAST);
	row->first = CdpCellInt8(i, col + CDP_BUNDLES_FIRST);
	row->received_at = DatumGetTimestampTz(CdpCell(i, col + CDP_BUNDLES_RECEIVED_AT, &isnull));
	row->attachment = CdpCellInt8(i, col + CDP_BUNDLES_ATTACHMENT);
	row->incarnation = DatumGetInt32(CdpCell(i, col + CDP_BUNDLES_INCARNATION, &isnull));
}

/*
 * Find the bundle of an entry.
 */
static bytea *
find_bundle(const Leaving *leaving, CdpBundleRow *row, ItemPointer place)
{
	Datum args[2] = { Int64GetDatum(leaving->xid), Int64GetDatum(leaving->id) };
	bytea *packed;
	bool isnull;

	if (CdpRunHere(&read_bundle, args, NULL) == 0)
		has_left();
	*place = *(ItemPointer) DatumGetPointer(CdpCell(0, 1, &isnull));
	read_row(0, 2, row);
	packed = (bytea *) CdpCellVarlena(0, CDP_BUNDLES_PACKED + 2, CurrentMemoryContext);
	SPI_freetuptable(SPI_tuptable);
	return packed;
}

/*
 * The entry that goes, for RETURNING.
 */
static void
store_entry(EState *estate, const Leaving *leaving, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	CdpUserContext saved;
	ItemPointerData place;
	CdpBundleRow row;
	CdpBundleReader reader;
	CdpBundleItem item;
	bytea *packed;

	SPI_connect();
	CdpBecomeOwner(&saved);
	MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	packed = find_bundle(leaving, &row, &place);
	CdpRestoreUser(&saved);
	SPI_finish();
	MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	CdpBundleReaderBegin(&reader, &row, packed);
	while (CdpBundleReaderNext(&reader, &item) && item.id != leaving->id)
		;
	if (item.id != leaving->id)
		has_left();
	CdpBundleItemRow(&reader, &row, &item, slot->tts_values, slot->tts_isnull);
	ExecStoreVirtualTuple(slot);
	ExecMaterializeSlot(slot);
	MemoryContextSwitchTo(old);
}

static TupleTableSlot *
delete_entry(EState *estate, ResultRelInfo *info, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	ChangeState *state = info->ri_FdwState;

	if (!leave(state, plan_slot))
		return NULL;
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

	if (!leave(state, plan_slot))
		return NULL;
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
	int cmp = CdpCompareInt8(&x->xid, &y->xid);

	return cmp != 0 ? cmp : CdpCompareInt8(&x->id, &y->id);
}

/*
 * Tell cdp.attached_rows of entries that leave a bundle; how many it has.
 */
static int
leave_keys(const CdpBundleRow *row, bytea *packed, const int64 *ids, int n)
{
	Datum *keys = palloc_array(Datum, n);
	int64 *entries = palloc_array(int64, n);
	int64 *hashes = palloc_array(int64, n);
	TimestampTz *times = palloc_array(TimestampTz, n);
	CdpBundleReader reader;
	CdpBundleItem item;
	Datum args[5];
	int found = 0;

	CdpBundleReaderBegin(&reader, row, packed);
	while (found < n && CdpBundleReaderNext(&reader, &item))
	{
		if (bsearch(&item.id, ids, n, sizeof(int64), CdpCompareInt8) == NULL)
			continue;
		keys[found] = PointerGetDatum(CdpBundleItemKey(&item));
		entries[found] = item.id;
		hashes[found] = item.hash;
		times[found++] = item.at;
	}
	args[0] = Int64GetDatum(row->attachment);
	args[1] = CdpVarlenaArray(keys, NULL, found, BYTEAOID);
	args[2] = CdpInt8Array(entries, found);
	args[3] = CdpInt8Array(hashes, found);
	args[4] = CdpTimestampArray(times, found);
	CdpRunHere(&take_keys, args, NULL);
	CdpRunHere(&forget_keys, args, NULL);
	return found;
}

/*
 * Take out those that are in the bundle of the first one; returns how many.
 */
static int
write_one(const ChangeState *state, const Leaving *leaving, int max)
{
	ItemPointerData place;
	CdpBundleRow row;
	bytea *packed = find_bundle(leaving, &row, &place);
	int64 *ids = palloc_array(int64, max);
	Datum args[4];
	int n = 0;

	while (n < max && leaving[n].xid == row.xid && leaving[n].id <= row.last)
	{
		ids[n] = leaving[n].id;
		n++;
	}
	if (leave_keys(&row, packed, ids, n) != n)
		has_left();
	packed = CdpBundleWithout(&row, packed, ids, n);
	args[0] = PointerGetDatum(&place);
	args[1] = Int64GetDatum(row.last);
	args[2] = Int64GetDatum(row.first);
	args[3] = PointerGetDatum(packed);
	if (CdpRunHere(packed == NULL ? &delete_bundle : &write_bundle, args, NULL) != 1)
		has_left();
	return n;
}

static void
write_all(const ChangeState *state)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp leaving",
												  ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < state->n;)
	{
		MemoryContext old = MemoryContextSwitchTo(scratch);

		CHECK_FOR_INTERRUPTS();
		i += write_one(state, state->leaving + i, state->n - i);
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

	if (state == NULL || state->n == 0)
		return;
	qsort(state->leaving, state->n, sizeof(Leaving), compare_leaving);
	SPI_connect();
	CdpBecomeOwner(&saved);
	/* whatever whoever runs the statement wants for it */
	CdpPinPlans();
	(void) set_config_option("enable_nestloop", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	write_all(state);
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
