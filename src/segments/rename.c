/*-------------------------------------------------------------------------
 *
 * rename.c
 *	  The name of a segment in the definitions of others.
 *
 *	  Segments refer to each other by id; their texts are kept in step.
 *
 * IDENTIFICATION
 *	  src/segments/rename.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "cdp.h"
#include "segments/predicate.h"

/*
 * In a text of a dependent definition, replace the old name by the new one.
 * terms: ids by term, *next: its first term; NULL: the text names segments
 * that are yet to be looked up.
 */
static char *
rename_in_text(const char *text, const int32 *terms, int nterms, int *next,
			   int32 id, const char *old, const char *new, const char *dependent)
{
	StringInfoData out;
	const char *quoted = quote_literal_cstr(old);
	int			length = strlen(quoted);
	int			copied = 0;
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, CdpVocabularyReplace(CdpPredicateParse(text), text, NULL))
	{
		CdpTerm    *term = (CdpTerm *) lfirst(lc);
		bool		same = term->kind == CDP_TERM_SEGMENT && !term->unnamed;

		if (terms == NULL)
			same = same && strcmp(term->name, old) == 0;
		else if (*next >= nterms)
			elog(ERROR, "terms of a predicate do not fit its text");
		else
			same &= terms[(*next)++] == id;
		if (same)
			found = lappend_int(found, term->name_location);
	}
	list_sort(found, list_int_cmp);

	initStringInfo(&out);
	foreach(lc, found)
	{
		int			location = lfirst_int(lc);

		if (strncmp(text + location, quoted, length) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("segment \"%s\" cannot be renamed because \"%s\" writes its name in an unusual way",
							old, dependent),
					 errhint("Write in_segment(%s) there.", quoted)));
		appendBinaryStringInfo(&out, text + copied, location - copied);
		appendStringInfoString(&out, quote_literal_cstr(new));
		copied = location + length;
	}
	appendStringInfoString(&out, text + copied);
	return out.data;
}

/*
 * Also in what altered segments are to be (version.c).
 */
void
CdpSegmentRenameIn(int32 id, const char *old, const char *new)
{
	static const char *const dependents =
		"SELECT d.id, d.name, d.predicate::text, d.exit_when::text, d.terms"
		" FROM cdp.segment_definitions d WHERE $1 = ANY (d.segment_ids)"
		" UNION ALL SELECT d.id, d.name, b.definition->>'predicate', b.definition->>'exit_when', NULL"
		" FROM cdp.backfills b JOIN cdp.segment_definitions d ON d.id = b.id"
		" WHERE b.kind = 'segment version'";
	static const char *const definition =
		"UPDATE cdp.segment_definitions SET predicate = $2, exit_when = $3 WHERE id = $1";
	static const char *const version =
		"UPDATE cdp.backfills SET definition = definition ||"
		" jsonb_build_object('predicate', $2, 'exit_when', $3)"
		" WHERE kind = 'segment version' AND id = $1";
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID};
	CdpUserContext saved;
	SPITupleTable *rows;
	uint64		nrows;
	Datum		values[3];

	values[0] = Int32GetDatum(id);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(dependents, 1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the dependents of a segment");
	rows = SPI_tuptable;
	nrows = SPI_processed;
	for (uint64 i = 0; i < nrows; i++)
	{
		HeapTuple	tuple = rows->vals[i];
		char	   *dependent = SPI_getvalue(tuple, rows->tupdesc, 2);
		char	   *exit_when = SPI_getvalue(tuple, rows->tupdesc, 4);
		char		nulls[4] = "   ";
		bool		isnull;
		Datum		array = SPI_getbinval(tuple, rows->tupdesc, 5, &isnull);
		int32	   *terms = NULL;
		int			nterms = 0;
		int			next = 0;

		if (!isnull)
		{
			ArrayType  *ids = DatumGetArrayTypeP(array);

			terms = (int32 *) ARR_DATA_PTR(ids);
			nterms = ArrayGetNItems(ARR_NDIM(ids), ARR_DIMS(ids));
		}
		values[0] = SPI_getbinval(tuple, rows->tupdesc, 1, &isnull);
		values[1] = CStringGetTextDatum(rename_in_text(SPI_getvalue(tuple, rows->tupdesc, 3), terms,
													   nterms, &next, id, old, new, dependent));
		values[2] = (Datum) 0;
		if (exit_when == NULL)
			nulls[2] = 'n';
		else
			values[2] = CStringGetTextDatum(rename_in_text(exit_when, terms, nterms, &next, id, old,
														   new, dependent));
		if (SPI_execute_with_args(terms == NULL ? version : definition, 3, types, values, nulls,
								  false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not rename a segment in its dependents");
	}
	SPI_finish();
	CdpRestoreUser(&saved);
}
