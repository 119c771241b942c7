/*-------------------------------------------------------------------------
 *
 * unnamed.c
 *	  Segments that nobody has named.
 *
 *	  What a segment of accounts asks of members, and what is more than a trait
 *	  can say (any_member(since(renewal) > …)), is a hidden segment of profiles,
 *	  called $ and its id.  It is evaluated like others, when entries come and
 *	  when its time has come, and shared by all segments of one owner that ask
 *	  the same.  It goes with the last of them.  Nobody is told of it: it makes no
 *	  changes, and is in no list.
 *
 * IDENTIFICATION
 *	  src/segments/unnamed.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "segments/predicate.h"

/*
 * The hidden segment that says the same and means the same by it; 0: none.
 */
static int32
find(const CdpSegmentDefinition *definition, const CdpReferences *references)
{
	static const char *const same =
		"SELECT d.id FROM cdp.segment_definitions d WHERE d.hidden AND d.predicate::text = $1"
		" AND d.timezone = $2 AND d.owner = $3 AND d.terms = $4 AND d.trait_names = $5"
		" AND d.trait_ids = $6 ORDER BY d.id LIMIT 1";
	Oid types[] = { TEXTOID, TEXTOID, TEXTOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID };
	Datum values[6];
	List *terms = NIL;
	List *traits = NIL;
	CdpUserContext saved;
	int32 id = 0;
	bool isnull;

	for (int i = 0; i < references->nterms; i++)
		terms = lappend_int(terms, references->terms[i]);
	for (int i = 0; i < references->nnames; i++)
		traits = lappend_int(traits, references->traits[i]);
	values[0] = CStringGetTextDatum(definition->predicate);
	values[1] = CStringGetTextDatum(definition->timezone);
	values[2] = CStringGetTextDatum(definition->owner);
	values[3] = CdpListDatum(terms);
	values[4] = CdpTextsDatum(references->names, references->nnames);
	values[5] = CdpListDatum(traits);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(same, lengthof(types), types, values, NULL, false, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not look for a hidden segment");
	if (SPI_processed > 0)
		id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
										 &isnull));
	SPI_finish();
	CdpRestoreUser(&saved);
	return id;
}

/*
 * Evaluate everybody for it, in this call however long the history is: accounts
 * follow from it.
 */
static void
evaluate(int32 id, List *created)
{
	CdpSegmentSet *set;

	CdpGenerationBump();
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	set = CdpSegmentSetGet(-1, CdpTraitSetGet(-1));
	if (CdpSegmentWaits(set, CdpSegmentColumn(set, id)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("what is asked of members reads a trait or segment that is being built"),
				 errhint("See cdp.progress; cdp.wait_backfill() waits for it.")));
	if (CdpSegmentById(set, id) == NULL)
		elog(ERROR, "hidden segment %d was stored and cannot be read", id);
	if (CdpBackfillHook != NULL)
		CdpBackfillHook(created, list_make1_int(id), true);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

int32
CdpSegmentUnnamed(const char *predicate, const char *timezone, List **read)
{
	CdpSegmentDefinition definition = { 0 };
	CdpReferences references = { 0 };
	List	   *created = NIL;

	CdpApplierLock();
	definition.name = "$";
	definition.predicate = CdpPredicateFromText(predicate);
	definition.timezone = pstrdup(timezone);
	definition.owner = GetUserNameFromId(GetUserId(), false);
	definition.options =
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	definition.seed = "";
	definition.enabled = true;
	CdpPredicateDefine(definition.predicate, timezone, "predicate", &references, &created);
	definition.id = find(&definition, &references);
	if (definition.id == 0)
	{
		CdpSegmentDefinitionWrite(&definition, &references);
		(void) CdpSegmentsExecute("UPDATE cdp.segment_definitions SET name = '$' || id,"
								  " channel = '' WHERE id = $1",
								  definition.id, NULL);
		CdpDependsSet("segment", definition.id, references.trait_ids);
		evaluate(definition.id, created);
	}
	*read = references.trait_ids;
	return definition.id;
}

/*
 * What nobody needs: hidden traits, those hidden segments whose members are not
 * counted any more (CdpTrait.member_trait), and the traits that they read.
 */
void
CdpSegmentsUnnamedPrune(void)
{
	List	   *ids;
	ListCell   *lc;

	CdpHiddenTraitsPrune();
	ids = CdpSegmentIntegers("SELECT h.id FROM cdp.segment_definitions h WHERE h.hidden AND $1 = 0"
							 " AND NOT EXISTS (SELECT FROM cdp.segment_definitions d"
							 " WHERE h.id = ANY (d.segment_ids))"
							 " AND NOT EXISTS (SELECT FROM cdp.trait_definitions t"
							 " WHERE t.hidden AND t.key = (-h.id)::text)", 0);
	if (ids == NIL)
		return;
	foreach(lc, ids)
		CdpSegmentForget(lfirst_int(lc));
	CdpHiddenTraitsPrune();
}

List *
CdpSegmentsUnnamedOf(int32 id)
{
	return CdpSegmentIntegers("SELECT h.id FROM cdp.segment_definitions d"
							  " JOIN cdp.segment_definitions h ON h.hidden AND h.id = ANY (d.segment_ids)"
							  " WHERE d.id = $1 ORDER BY h.id",
							  id);
}
