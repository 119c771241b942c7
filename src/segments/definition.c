/*-------------------------------------------------------------------------
 *
 * definition.c
 *	  Rows of cdp.segment_definitions, read and written as the extension's
 *	  owner.
 *
 * IDENTIFICATION
 *	  src/segments/definition.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "cdp.h"
#include "segments/predicate.h"

static Datum
ints_datum(const int32 *values, int n)
{
	Datum	   *elements = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		elements[i] = Int32GetDatum(values[i]);
	return PointerGetDatum(construct_array(elements, n, INT4OID, 4, true, TYPALIGN_INT));
}

Datum
CdpListDatum(const List *list)
{
	int32	   *values = palloc(Max(list_length(list), 1) * sizeof(int32));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, list)
		values[n++] = lfirst_int(lc);
	return ints_datum(values, n);
}

static List *
datum_list(Datum datum)
{
	ArrayType  *array = DatumGetArrayTypeP(datum);
	List	   *list = NIL;

	if (ARR_NDIM(array) == 1 && !ARR_HASNULL(array))
	{
		for (int i = 0; i < ARR_DIMS(array)[0]; i++)
			list = lappend_int(list, ((int32 *) ARR_DATA_PTR(array))[i]);
	}
	return list;
}

Datum
CdpTextsDatum(char **values, int n)
{
	Datum	   *elements = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		elements[i] = CStringGetTextDatum(values[i]);
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * Run a statement as the extension's owner with up to two arguments: a
 * segment's id and a text.  Returns the number of rows.
 */
uint64
CdpSegmentsExecute(const char *sql, int32 id, const char *string)
{
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[2];
	CdpUserContext saved;
	uint64		processed;

	values[0] = Int32GetDatum(id);
	values[1] = string ? CStringGetTextDatum(string) : (Datum) 0;
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(sql, string ? 2 : 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	processed = SPI_processed;
	SPI_finish();
	CdpRestoreUser(&saved);
	return processed;
}

/*
 * Read integers, the first column of a query about a segment.
 */
List *
CdpSegmentIntegers(const char *sql, int32 id)
{
	Oid			types[] = {INT4OID};
	Datum		values[1];
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	List	   *result = NIL;

	values[0] = Int32GetDatum(id);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int32		value = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
														SPI_tuptable->tupdesc, 1, &isnull));
		MemoryContext oldcontext = MemoryContextSwitchTo(context);

		result = lappend_int(result, value);
		MemoryContextSwitchTo(oldcontext);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	return result;
}

/*
 * Read a definition; false when there is none of that name.
 */
bool
CdpSegmentDefinitionRead(const char *name, CdpSegmentDefinition *out)
{
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	bool		found;

	memset(out, 0, sizeof(CdpSegmentDefinition));
	values[0] = CStringGetTextDatum(name);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT id, name, predicate, exit_when, timezone, description,"
							  " options, owner, enabled, exclude, holdout, seed, version,"
							  " entity = 'account'"
							  " FROM cdp.segment_definitions WHERE name = $1 AND NOT hidden",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the definition of a segment");
	found = SPI_processed > 0;
	if (found)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext oldcontext = MemoryContextSwitchTo(context);
		bool		isnull;

		out->id = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		out->name = SPI_getvalue(tuple, desc, 2);
		out->predicate = SPI_getvalue(tuple, desc, 3);
		out->exit_when = SPI_getvalue(tuple, desc, 4);
		out->timezone = SPI_getvalue(tuple, desc, 5);
		out->description = SPI_getvalue(tuple, desc, 6);
		out->options = DatumGetJsonbPCopy(SPI_getbinval(tuple, desc, 7, &isnull));
		out->owner = SPI_getvalue(tuple, desc, 8);
		out->enabled = DatumGetBool(SPI_getbinval(tuple, desc, 9, &isnull));
		out->exclude = datum_list(SPI_getbinval(tuple, desc, 10, &isnull));
		out->holdout = DatumGetFloat8(SPI_getbinval(tuple, desc, 11, &isnull));
		out->seed = SPI_getvalue(tuple, desc, 12);
		out->version = DatumGetInt32(SPI_getbinval(tuple, desc, 13, &isnull));
		out->accounts = DatumGetBool(SPI_getbinval(tuple, desc, 14, &isnull));
		MemoryContextSwitchTo(oldcontext);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	return found;
}

/*
 * Refuse a definition that would refer to itself, and say how.
 */
void
CdpSegmentCycleCheck(const CdpSegmentDefinition *definition, const CdpReferences *references)
{
	static const char *const reaches =
		"WITH RECURSIVE r(id) AS ("
		" SELECT unnest($1) UNION"
		" SELECT unnest(d.segment_ids) FROM r JOIN cdp.segment_definitions d ON d.id = r.id)"
		" SELECT 1 FROM r WHERE id = $2";
	static const char *const path =
		"WITH RECURSIVE w(id, path, ids) AS ("
		" SELECT d.id, ARRAY[$3, d.name], ARRAY[d.id]"
		" FROM cdp.segment_definitions d WHERE d.id = ANY ($1)"
		" UNION ALL"
		" SELECT d.id, w.path || d.name, w.ids || d.id FROM w"
		" JOIN cdp.segment_definitions p ON p.id = w.id"
		" JOIN cdp.segment_definitions d ON d.id = ANY (p.segment_ids)"
		" WHERE w.id <> $2 AND d.id <> ALL (w.ids))"
		" SELECT array_to_string(path, ' -> ') FROM w WHERE id = $2 LIMIT 1";
	Oid			types[] = {INT4ARRAYOID, INT4OID, TEXTOID};
	Datum		values[3];
	CdpUserContext saved;

	if (references->segment_ids == NIL || definition->id == 0)
		return;
	values[0] = CdpListDatum(references->segment_ids);
	values[1] = Int32GetDatum(definition->id);
	values[2] = CStringGetTextDatum(definition->name);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(reaches, 2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a cycle of segments");
	if (SPI_processed > 0)
	{
		if (SPI_execute_with_args(path, 3, types, values, NULL, false, 1) != SPI_OK_SELECT ||
			SPI_processed == 0)
			elog(ERROR, "could not name a cycle of segments");
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("segment \"%s\" would depend on itself", definition->name),
				 errdetail("The cycle is %s.",
						   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1))));
	}
	SPI_finish();
	CdpRestoreUser(&saved);
}

void
CdpSegmentDefinitionWrite(CdpSegmentDefinition *definition, const CdpReferences *references)
{
	static const char *const insert =
		"INSERT INTO cdp.segment_definitions (name, predicate, exit_when, timezone,"
		" description, options, owner, channel, enabled,"
		" terms, trait_names, trait_ids, segment_ids, exclude, holdout, seed, entity, hidden)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,"
		" starts_with($1, '$'))"
		" RETURNING id";
	static const char *const update =
		"UPDATE cdp.segment_definitions SET name = $1, predicate = $2, exit_when = $3,"
		" timezone = $4, description = $5, options = $6, owner = $7, channel = $8,"
		" enabled = $9, terms = $10, trait_names = $11, trait_ids = $12,"
		" segment_ids = $13, exclude = $14, holdout = $15, seed = $16,"
		" version = version + 1, altered_at = cdp.clock()"
		" WHERE id = $17 RETURNING id";
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID,
		TEXTOID, TEXTOID, BOOLOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID,
	INT4ARRAYOID, INT4ARRAYOID, FLOAT8OID, TEXTOID, INT4OID};
	Datum		values[17];
	char		nulls[18] = "                 ";
	CdpUserContext saved;
	bool		isnull;

	if (definition->id == 0)
		types[16] = TEXTOID;
	values[0] = CStringGetTextDatum(definition->name);
	values[1] = CStringGetTextDatum(definition->predicate);
	values[2] = (Datum) 0;
	if (definition->exit_when != NULL)
		values[2] = CStringGetTextDatum(definition->exit_when);
	else
		nulls[2] = 'n';
	values[3] = CStringGetTextDatum(definition->timezone);
	values[4] = (Datum) 0;
	if (definition->description != NULL)
		values[4] = CStringGetTextDatum(definition->description);
	else
		nulls[4] = 'n';
	values[5] = JsonbPGetDatum(definition->options);
	values[6] = CStringGetTextDatum(definition->owner);
	values[7] = CStringGetTextDatum(psprintf("%s%s", CDP_SEGMENT_CHANNEL, definition->name));
	values[8] = BoolGetDatum(definition->enabled);
	values[9] = ints_datum(references->terms, references->nterms);
	values[10] = CdpTextsDatum(references->names, references->nnames);
	values[11] = ints_datum(references->traits, references->nnames);
	values[12] = CdpListDatum(references->segment_ids);
	values[13] = CdpListDatum(definition->exclude);
	values[14] = Float8GetDatum(definition->holdout);
	values[15] = CStringGetTextDatum(definition->seed);
	values[16] = definition->id != 0 ? Int32GetDatum(definition->id) :
		CStringGetTextDatum(definition->accounts ? "account" : "profile");

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (definition->id == 0)
	{
		if (SPI_execute_with_args(insert, 17, types, values, nulls, false, 0) !=
			SPI_OK_INSERT_RETURNING || SPI_processed != 1)
			elog(ERROR, "could not store the definition of a segment");
		definition->id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
													 SPI_tuptable->tupdesc, 1, &isnull));
	}
	else if (SPI_execute_with_args(update, 17, types, values, nulls, false, 0) !=
			 SPI_OK_UPDATE_RETURNING || SPI_processed != 1)
		elog(ERROR, "could not store the definition of a segment");
	SPI_finish();
	CdpRestoreUser(&saved);
}

char *
CdpSegmentNameById(int32 id)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(id)};
	MemoryContext context = CurrentMemoryContext;
	CdpUserContext saved;
	char	   *name;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT name FROM cdp.segment_definitions WHERE id = $1",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "segment %d is missing", id);
	name = MemoryContextStrdup(context, SPI_getvalue(SPI_tuptable->vals[0],
													 SPI_tuptable->tupdesc, 1));
	SPI_finish();
	CdpRestoreUser(&saved);
	return name;
}

/*
 * The name by which a user knows a segment: of a hidden one, that of one that
 * asks for it.
 */
char *
CdpSegmentAsking(int32 id)
{
	ListCell   *lc;

	foreach(lc, CdpSegmentDependents(id))
	{
		char	   *name = CdpSegmentNameById(lfirst_int(lc));

		if (name[0] != '$')
			return name;
	}
	return CdpSegmentNameById(id);
}

/*
 * A segment and those that refer to it, directly or not.
 */
List *
CdpSegmentDependents(int32 id)
{
	return CdpSegmentIntegers("WITH RECURSIVE r(id) AS (SELECT $1 UNION"
						 " SELECT d.id FROM r"
						 " JOIN cdp.segment_definitions d ON r.id = ANY (d.segment_ids))"
						 " SELECT r.id FROM r ORDER BY r.id <> $1, r.id", id);
}

/*
 * The segments whose members may change with a trait: those that read it or a
 * trait derived from it, and those that refer to such a segment.
 */
List *
CdpSegmentsOfTrait(int32 trait_id)
{
	return CdpSegmentIntegers("WITH RECURSIVE t(id) AS (SELECT $1 UNION"
						 " SELECT x.id FROM t JOIN cdp.definition_depends x"
						 " ON x.trait_id = t.id AND x.kind = 'trait'),"
						 " r(id) AS (SELECT x.id FROM t JOIN cdp.definition_depends x"
						 " ON x.trait_id = t.id AND x.kind = 'segment' UNION"
						 " SELECT d.id FROM r"
						 " JOIN cdp.segment_definitions d ON r.id = ANY (d.segment_ids))"
						 " SELECT d.id FROM r JOIN cdp.segment_definitions d ON d.id = r.id"
						 " WHERE d.enabled ORDER BY d.id", trait_id);
}
