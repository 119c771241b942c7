/*-------------------------------------------------------------------------
 *
 * version.c
 *	  The next version of a segment that is altered, where history has to be
 *	  folded for it first.
 *
 *	  Until that is done the segment goes on as it is.  What it is to be stands
 *	  in a row of cdp.backfills of kind "segment version"; cdp.definition_depends
 *	  says, as the same kind, which traits it needs.  When they are whole the
 *	  applier stores it as if it had just been asked for.  A row of kind "segment"
 *	  beside it: meanwhile everybody is to be evaluated for what it still is.
 *
 * IDENTIFICATION
 *	  src/segments/version.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "cdp.h"
#include "segments/predicate.h"
#include "statement.h"

#define VERSION_KIND	"segment version"

static CdpStatement keep_version = {
	"UPDATE cdp.backfills b SET definition = jsonb_build_object('predicate', $2::text,"
	" 'exit_when', $3::text, 'timezone', $4::text, 'description', $5::text,"
	" 'exclude', to_jsonb($6::int[]), 'holdout', $7::float8, 'seed', $8::text, 'owner', $9::text,"
	" 'options', $10::jsonb)"
	" WHERE b.kind = '" VERSION_KIND "' AND b.id = $1",
	{"int4", "text", "text", "text", "text", "int4[]", "float8", "text", "text", "jsonb"}
};

static CdpStatement read_version = {
	"SELECT d.predicate, d.exit_when, d.timezone, d.description, d.exclude, d.holdout, d.seed, d.owner, d.options"
	" FROM cdp.backfills b CROSS JOIN LATERAL jsonb_to_record(b.definition)"
	" AS d(predicate text, exit_when text, timezone text, description text,"
	" exclude int[], holdout float8, seed text, owner text, options jsonb)"
	" WHERE b.kind = '" VERSION_KIND "' AND b.id = $1",
	{"int4"}
};

static CdpStatement segment_name = {
	"SELECT s.name FROM cdp.segment_definitions s WHERE s.id = $1",
	{"int4"}
};

/*
 * Must history be folded before the segment can be what it is to be?
 */
bool
CdpSegmentVersionNeeded(const CdpReferences *references, const List *created)
{
	CdpTraitSet *traits;
	CdpTraitSet *of_accounts;
	ListCell   *lc;

	if (!CdpBackfillLater())
		return false;
	if (created != NIL)
		return true;
	traits = CdpTraitSetFresh();
	of_accounts = CdpAccountTraitSetFresh();
	foreach(lc, references->trait_ids)
	{
		CdpTrait   *trait = CdpTraitById(traits, lfirst_int(lc));

		if (trait == NULL)
			trait = CdpTraitById(of_accounts, lfirst_int(lc));

		if (trait != NULL && trait->building)
			return true;
	}
	return false;
}

void
CdpSegmentVersionKeep(const CdpSegmentDefinition *definition, const CdpReferences *references)
{
	CdpUserContext saved;
	Datum		args[10];
	char		nulls[11] = "          ";
	int32	   *exclude = palloc(sizeof(int32) * Max(list_length(definition->exclude), 1));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, definition->exclude)
		exclude[n++] = lfirst_int(lc);
	CdpBackfillBegin(VERSION_KIND, definition->id, definition->id, false);
	CdpDependsSet(VERSION_KIND, definition->id, references->trait_ids);
	args[0] = Int32GetDatum(definition->id);
	args[1] = CStringGetTextDatum(definition->predicate);
	args[2] = definition->exit_when ? CStringGetTextDatum(definition->exit_when) : (Datum) 0;
	args[3] = CStringGetTextDatum(definition->timezone);
	args[4] = definition->description ? CStringGetTextDatum(definition->description) : (Datum) 0;
	CdpBecomeOwner(&saved);
	SPI_connect();
	args[5] = CdpInt4Array(exclude, n);
	args[6] = Float8GetDatum(definition->holdout);
	args[7] = CStringGetTextDatum(definition->seed);
	args[8] = CStringGetTextDatum(definition->owner);
	args[9] = JsonbPGetDatum(definition->options);
	if (definition->exit_when == NULL)
		nulls[2] = 'n';
	if (definition->description == NULL)
		nulls[4] = 'n';
	CdpRun(&keep_version, args, nulls);
	SPI_finish();
	CdpRestoreUser(&saved);
}

static char *
text_cell(int column)
{
	bool		isnull;
	Datum		value = CdpCell(0, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * What the segment is to be, over what it is; false when it is not being
 * altered.
 */
bool
CdpSegmentVersionRead(CdpSegmentDefinition *definition)
{
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	Datum		arg = Int32GetDatum(definition->id);
	bool		found;

	CdpBecomeOwner(&saved);
	SPI_connect();
	found = CdpRun(&read_version, &arg, NULL) > 0;
	if (found)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		isnull;
		ArrayType  *exclude;

		definition->predicate = text_cell(1);
		definition->exit_when = text_cell(2);
		definition->timezone = text_cell(3);
		definition->description = text_cell(4);
		exclude = DatumGetArrayTypePCopy(CdpCell(0, 5, &isnull));
		definition->exclude = NIL;
		for (int i = 0; i < ArrayGetNItems(ARR_NDIM(exclude), ARR_DIMS(exclude)); i++)
			definition->exclude = lappend_int(definition->exclude,
											  ((int32 *) ARR_DATA_PTR(exclude))[i]);
		definition->holdout = DatumGetFloat8(CdpCell(0, 6, &isnull));
		definition->seed = text_cell(7);
		definition->owner = text_cell(8);
		definition->options = DatumGetJsonbPCopy(CdpCell(0, 9, &isnull));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	return found;
}

/*
 * It is not to be altered any more; false when it was not.
 */
bool
CdpSegmentVersionDrop(int32 id)
{
	CdpSegmentDefinition definition = {0};

	definition.id = id;
	if (!CdpSegmentVersionRead(&definition))
		return false;
	(void) CdpBackfillEnd(VERSION_KIND, id);
	CdpDependsSet(VERSION_KIND, id, NIL);
	return true;
}

static char *
name_of(int32 id)
{
	CdpUserContext saved;
	Datum		arg = Int32GetDatum(id);
	MemoryContext context = CurrentMemoryContext;
	char	   *name = NULL;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (CdpRun(&segment_name, &arg, NULL) > 0)
		name = MemoryContextStrdup(context, text_cell(1));
	SPI_finish();
	CdpRestoreUser(&saved);
	return name;
}

/*
 * All that the new version reads is whole: store it.  What has become
 * impossible meanwhile (a segment that it refers to is gone) is given up.
 */
void
CdpSegmentVersionSwitch(int32 id)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	CdpSegmentDefinition definition;
	char	   *name = name_of(id);

	if (name == NULL || !CdpSegmentDefinitionRead(name, &definition) ||
		!CdpSegmentVersionRead(&definition))
		elog(ERROR, "segment %d is not defined", id);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		CdpSegmentStore(&definition, false);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!CdpErrorIsLocal(error->sqlerrcode))
			ReThrowError(error);
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("segment \"%s\" stays as it was: %s", definition.name, error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (CdpSegmentVersionDrop(id))
		CdpSegmentsUnnamedPrune();
}
