/*-------------------------------------------------------------------------
 *
 * lookup.c
 *	  The profile of one identifier or node.
 *
 *	  Index scans without a plan: look-ups of single identifiers are frequent
 *	  and their plan is never in question.  (A cached plan would also remember
 *	  that the tables were empty when the session began.)
 *
 *	  Whoever may call the functions that use this may see every profile, so
 *	  privileges on the tables are not looked at.
 *
 * IDENTIFICATION
 *	  src/identity/lookup.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "compat.h"
#include "identity/identity.h"

/* Keys of scans of one index each, without their value. */
#define KEPT_KEYS	4
static struct
{
	Oid			index;
	ScanKeyData key;
}			kept_keys[KEPT_KEYS];

/*
 * The key of a scan for one value.  Looking up its function costs as much as
 * the scan.  An index keeps its operators for as long as it keeps its OID.
 */
static void
make_key(ScanKey key, Relation index, Datum value)
{
	static int	next = 0;
	FmgrInfo	function;
	Oid			type;
	int			i;

	for (i = 0; i < KEPT_KEYS; i++)
		if (kept_keys[i].index == RelationGetRelid(index))
			break;
	if (i == KEPT_KEYS)
	{
		type = index->rd_opcintype[0];
		i = next;
		kept_keys[i].index = InvalidOid;
		fmgr_info_cxt(get_opcode(get_opfamily_member(index->rd_opfamily[0], type,
													 type, BTEqualStrategyNumber)),
					  &function, CacheMemoryContext);
		ScanKeyEntryInitializeWithInfo(&kept_keys[i].key, 0, 1,
									   BTEqualStrategyNumber, InvalidOid,
									   index->rd_indcollation[0], &function,
									   (Datum) 0);
		kept_keys[i].index = RelationGetRelid(index);
		next = (next + 1) % KEPT_KEYS;
	}
	*key = kept_keys[i].key;
	key->sk_argument = value;
}

/*
 * Begin to look for one value in an index on cdp.identities, in the active
 * snapshot.  The caller ends the scan and closes the index.
 */
IndexScanDesc
CdpIdentitiesScan(Relation heap, const char *index_name, Datum value, Relation *index)
{
	ScanKeyData key;
	IndexScanDesc scan;

	*index = index_open(CdpRelationOid(index_name), AccessShareLock);
	make_key(&key, *index, value);
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
	IndexScanDesc scan = CdpIdentitiesScan(heap, index_name, value, &index);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	int64		profile_id = 0;
	bool		isnull;

	if (index_getnext_slot(scan, ForwardScanDirection, slot))
		profile_id = DatumGetInt64(slot_getattr(slot, CDP_IDENTITIES_PROFILE_ID, &isnull));
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return profile_id;
}

/*
 * 0 for a profile that the session's user may not see.
 */
static int64
visible(int64 profile_id)
{
	return profile_id == 0 || CdpVisibleHook == NULL || CdpVisibleHook(profile_id) ? profile_id : 0;
}

int64
CdpProfileOfNode(int64 node_id)
{
	return visible(find_profile("identities_pkey", Int64GetDatum(node_id)));
}

/*
 * The profile that now has the identifier of a node that is gone; 0 when there
 * was no such node, or the identifier is unknown.
 */
int64
CdpProfileOfFormerNode(int64 node_id)
{
	Relation	heap = table_open(CdpRelationOid("former_identities"), AccessShareLock);
	Relation	index;
	IndexScanDesc scan = CdpIdentitiesScan(heap, "former_identities_pkey",
										   Int64GetDatum(node_id), &index);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	int64		profile_id = 0;
	bool		isnull;

	if (index_getnext_slot(scan, ForwardScanDirection, slot))
		profile_id = find_profile("identities_identifier",
								  slot_getattr(slot, CDP_IDENTITIES_IDENTIFIER, &isnull));
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return visible(profile_id);
}

CdpIdentifier *
CdpCanonicalArgument(int64 generation, const CdpIdentifier *raw)
{
	CdpIdentifier *canonical = NULL;
	CdpKind    *kind;
	CdpCanonicalStatus status;

	status = CdpCanonicalise(CdpKindSetGet(generation), raw, &canonical, &kind);
	if (!kind->registered)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("identifier kind \"%s\" is not registered",
						pnstrdup(VARDATA_ANY(raw), CdpIdentifierKindLength(raw))),
				 errhint("See cdp.identifier_kinds, or register it with cdp.create_identifier_kind().")));
	if (status == CDP_CANONICAL_BLOCKED || status == CDP_CANONICAL_INVALID)
		return NULL;
	return canonical;
}

int64
CdpProfileOfIdentifier(int64 generation, const CdpIdentifier *raw)
{
	CdpIdentifier *canonical = CdpCanonicalArgument(generation, raw);

	if (canonical == NULL)
		return 0;
	return visible(find_profile("identities_identifier", PointerGetDatum(canonical)));
}
