/*-------------------------------------------------------------------------
 *
 * read.c
 *	  A profile's nodes, for calls that read.
 *
 *	  Two or three index scans without a plan: reads of single profiles are
 *	  frequent and their plan is never in question.  (A cached plan would also
 *	  remember that the tables were empty when the session began.)
 *
 *	  Whoever may call the functions that use this may see every profile, so
 *	  privileges on the tables are not looked at.
 *
 * IDENTIFICATION
 *	  src/segments/read.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "compat.h"
#include "segments/segments.h"

/* Columns of cdp.identities, in order. */
enum
{
	NODE_ID = 1,
	NODE_IDENTIFIER,
	NODE_PROFILE_ID,
	NODE_FIRST_SEEN,
	NODE_LAST_SEEN,
	NODE_STATE,
	NODE_SEGMENTS
};

/*
 * Begin to look for one value of an index on cdp.identities.
 */
static IndexScanDesc
begin_scan(Relation heap, const char *index_name, Datum value, Relation *index)
{
	ScanKeyData key;
	IndexScanDesc scan;
	Oid			type;

	*index = index_open(CdpRelationOid(index_name), AccessShareLock);
	type = (*index)->rd_opcintype[0];
	ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, InvalidOid,
						   (*index)->rd_indcollation[0],
						   get_opcode(get_opfamily_member((*index)->rd_opfamily[0],
														  type, type,
														  BTEqualStrategyNumber)),
						   value);
	scan = CdpIndexBeginScan(heap, *index, GetActiveSnapshot(), 1, 0);
	index_rescan(scan, &key, 1, NULL, 0);
	return scan;
}

/*
 * The profile in the first row for that value; 0 when there is none.
 */
static int64
find_profile(const char *index_name, Datum value)
{
	Relation	heap = table_open(CdpRelationOid("identities"), AccessShareLock);
	Relation	index;
	IndexScanDesc scan = begin_scan(heap, index_name, value, &index);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	int64		profile_id = 0;
	bool		isnull;

	if (index_getnext_slot(scan, ForwardScanDirection, slot))
		profile_id = DatumGetInt64(slot_getattr(slot, NODE_PROFILE_ID, &isnull));
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return profile_id;
}

int64
CdpProfileOfNode(int64 node_id)
{
	return find_profile("identities_pkey", Int64GetDatum(node_id));
}

int64
CdpProfileOfIdentifier(int64 generation, const CdpIdentifier *raw)
{
	CdpIdentifier *canonical = NULL;
	CdpKind    *kind;

	switch (CdpCanonicalise(CdpKindSetGet(generation), raw, &canonical, &kind))
	{
		case CDP_CANONICAL_OK:
		case CDP_CANONICAL_LABEL:
			break;
		case CDP_CANONICAL_ACCOUNT:
		case CDP_CANONICAL_BLOCKED:
		case CDP_CANONICAL_INVALID:
			canonical = NULL;
			break;
	}
	if (!kind->registered)
	{
		char	   *name = pnstrdup(VARDATA_ANY(raw), CdpIdentifierKindLength(raw));

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("identifier kind \"%s\" is not registered", name),
				 errhint("See cdp.identifier_kinds, or register it with cdp.create_identifier_kind().")));
	}
	if (canonical == NULL)
		return 0;
	return find_profile("identities_identifier", PointerGetDatum(canonical));
}

static void
read_node(CdpProfileNodes *out, int i, TupleTableSlot *slot, CdpTraitSet *traits)
{
	CdpProfileNode    *node = &out->nodes[i];
	Datum		value;
	bool		isnull;

	slot_getallattrs(slot);
	node->node_id = DatumGetInt64(slot->tts_values[NODE_ID - 1]);
	node->identifier = (CdpIdentifier *)
		PG_DETOAST_DATUM_COPY(slot->tts_values[NODE_IDENTIFIER - 1]);
	node->first_seen = DatumGetTimestampTz(slot->tts_values[NODE_FIRST_SEEN - 1]);
	node->last_seen = DatumGetTimestampTz(slot->tts_values[NODE_LAST_SEEN - 1]);
	value = slot_getattr(slot, NODE_STATE, &isnull);
	out->accs[i] = CdpNodeOpen(traits, isnull ? NULL : PG_DETOAST_DATUM_COPY(value));
	value = slot_getattr(slot, NODE_SEGMENTS, &isnull);
	if (node->node_id == out->profile_id && !isnull)
	{
		ArrayType  *array = DatumGetArrayTypePCopy(value);

		if (ARR_NDIM(array) == 1 && !ARR_HASNULL(array) && ARR_ELEMTYPE(array) == INT4OID)
		{
			out->nsegments = ARR_DIMS(array)[0];
			out->segments = (int32 *) ARR_DATA_PTR(array);
		}
	}
}

bool
CdpProfileRead(int64 profile_id, CdpTraitSet *traits, CdpProfileNodes *out)
{
	Relation	heap = table_open(CdpRelationOid("identities"), AccessShareLock);
	Relation	index;
	IndexScanDesc scan = begin_scan(heap, "identities_profile",
									Int64GetDatum(profile_id), &index);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	int			size = 8;

	memset(out, 0, sizeof(CdpProfileNodes));
	out->profile_id = profile_id;
	out->nodes = palloc(size * sizeof(CdpProfileNode));
	out->accs = palloc(size * sizeof(CdpNodeAcc *));
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		if (out->nnodes == size)
		{
			size *= 2;
			out->nodes = repalloc(out->nodes, size * sizeof(CdpProfileNode));
			out->accs = repalloc(out->accs, size * sizeof(CdpNodeAcc *));
		}
		read_node(out, out->nnodes++, slot, traits);
	}
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return out->nnodes > 0;
}
