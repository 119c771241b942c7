/*-------------------------------------------------------------------------
 *
 * read.c
 *	  A profile's nodes, for calls that read.
 *
 *	  Index scans without a plan, as in identity/lookup.c.
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
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "cdp.h"
#include "segments/segments.h"

static void
read_node(CdpProfileNodes *out, int i, TupleTableSlot *slot, CdpTraitSet *traits)
{
	CdpProfileNode    *node = &out->nodes[i];
	Datum		value;
	bool		isnull;

	slot_getallattrs(slot);
	node->node_id = DatumGetInt64(slot->tts_values[CDP_IDENTITIES_NODE_ID - 1]);
	node->identifier = (CdpIdentifier *)
		PG_DETOAST_DATUM_COPY(slot->tts_values[CDP_IDENTITIES_IDENTIFIER - 1]);
	node->first_seen = DatumGetTimestampTz(slot->tts_values[CDP_IDENTITIES_FIRST_SEEN - 1]);
	node->last_seen = DatumGetTimestampTz(slot->tts_values[CDP_IDENTITIES_LAST_SEEN - 1]);
	value = slot_getattr(slot, CDP_IDENTITIES_STATE, &isnull);
	out->accs[i] = CdpNodeOpen(traits, isnull ? NULL : PG_DETOAST_DATUM_COPY(value));
	value = slot_getattr(slot, CDP_IDENTITIES_SEGMENTS, &isnull);
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
	IndexScanDesc scan = CdpIdentitiesScan(heap, "identities_profile",
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

/*
 * The identifiers of a profile that has been read, for CdpProfileEval.
 */
CdpIdentifier **
CdpProfileIdentifiers(const CdpProfileNodes *nodes)
{
	CdpIdentifier **identifiers = palloc(Max(nodes->nnodes, 1) * sizeof(CdpIdentifier *));

	for (int i = 0; i < nodes->nnodes; i++)
		identifiers[i] = nodes->nodes[i].identifier;
	return identifiers;
}
