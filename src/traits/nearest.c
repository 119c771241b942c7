/*-------------------------------------------------------------------------
 *
 * nearest.c
 *	  Hints: which of the names that exist is meant by one that does not.
 *
 * IDENTIFICATION
 *	  src/traits/nearest.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "utils/rel.h"
#include "utils/varlena.h"

#include "cdp.h"
#include "traits/traits.h"

/* Nobody misspells more than this, and longer names cost more to compare. */
#define MAX_DISTANCE	3
#define MAX_LENGTH		128

void
CdpNearestBegin(CdpNearest *nearest, const char *wanted)
{
	int			length = strlen(wanted);

	nearest->wanted = wanted;
	nearest->found = NULL;
	nearest->distance = Min(MAX_DISTANCE, Max(1, (length + 2) / 3)) + 1;
}

/*
 * Look at a name that exists; it is kept, not copied, when it is nearer than
 * those before.
 */
void
CdpNearestTry(CdpNearest *nearest, const char *name)
{
	int			wanted_length = strlen(nearest->wanted);
	int			length = strlen(name);
	int			distance;

	if (wanted_length == 0 || wanted_length > MAX_LENGTH || length > MAX_LENGTH ||
		abs(wanted_length - length) >= nearest->distance)
		return;
	distance = varstr_levenshtein_less_equal(nearest->wanted, wanted_length,
											 name, length, 1, 1, 1,
											 nearest->distance, true);
	/* of two that are as near, who begins alike is meant */
	if (distance < nearest->distance ||
		(distance == nearest->distance && nearest->found != NULL &&
		 nearest->found[0] != nearest->wanted[0] && name[0] == nearest->wanted[0]))
	{
		nearest->distance = distance;
		nearest->found = name;
	}
}

bool
CdpFunctionExists(List *name)
{
#if PG_VERSION_NUM >= 190000
	int			flags;

	return FuncnameGetCandidates(name, -1, NIL, false, false, false, true, &flags) != NULL;
#else
	return FuncnameGetCandidates(name, -1, NIL, false, false, false, true) != NULL;
#endif
}

/*
 * Reads the whole catalogue: for errors only.  There are thousands of names, so
 * that one must be nearer than of a few.
 */
void
CdpNearestTryFunctions(CdpNearest *nearest)
{
	Relation	catalogue = table_open(ProcedureRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(catalogue, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	nearest->distance = Min(nearest->distance, Max(1, strlen(nearest->wanted) / 3) + 1);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);

		if (proc->pronamespace != PG_CATALOG_NAMESPACE || proc->prokind != PROKIND_FUNCTION ||
			proc->provolatile == PROVOLATILE_VOLATILE || proc->proretset)
			continue;
		CdpNearestTry(nearest, NameStr(proc->proname));
		/* the tuple goes */
		if (nearest->found == NameStr(proc->proname))
			nearest->found = pstrdup(nearest->found);
	}
	systable_endscan(scan);
	table_close(catalogue, AccessShareLock);
}
