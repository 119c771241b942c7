/*-------------------------------------------------------------------------
 *
 * predicate_type.c
 *	  cdp.predicate: the text of a predicate as a type.
 *
 *	  A value is the canonical text, represented as text is.  Input checks the
 *	  grammar and the form of the vocabulary's calls and reads no table, so
 *	  that dumps restore in any order; what names mean is looked up when a
 *	  segment is made or the predicate is evaluated.
 *
 * IDENTIFICATION
 *	  src/segments/predicate_type.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "segments/predicate.h"

/*
 * For use in ereport: where in the text of a definition an error is.
 */
int
CdpPredicateErrorPosition(const char *text, int location)
{
	if (location >= 0)
	{
		internalerrquery(text);
		internalerrposition(pg_mbstrlen_with_len(text, location) + 1);
	}
	return 0;
}

/*
 * An error in a literal is shown with the position of the literal; say where
 * in it the error is.
 */
static void
input_error(void *arg)
{
	const char *text = (const char *) arg;
	int			position = getinternalerrposition();
	int			offset = 0;

	if (position <= 0)
		return;
	for (int i = 1; i < position && text[offset]; i++)
		offset += pg_mblen(text + offset);
	text += offset;
	errcontext("character %d of the predicate: \"%s\"", position,
			   pnstrdup(text, pg_mbcliplen(text, strlen(text), 40)));
}

char *
CdpPredicateFromText(const char *text)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "cdp predicate",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(work);
	ErrorContextCallback callback;
	char	   *canonical;

	callback.callback = input_error;
	callback.arg = unconstify(char *, text);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	(void) CdpVocabularyReplace(CdpPredicateParse(text), text, NULL);
	canonical = CdpPredicateCanonical(text);
	error_context_stack = callback.previous;
	if (strlen(canonical) > CDP_PREDICATE_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("predicate is too long"),
				 errdetail("A predicate may have at most %d bytes.", CDP_PREDICATE_MAX)));
	MemoryContextSwitchTo(oldcontext);
	canonical = pstrdup(canonical);
	MemoryContextDelete(work);
	return canonical;
}

PG_FUNCTION_INFO_V1(cdp_predicate_in);

Datum
cdp_predicate_in(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(CdpPredicateFromText(PG_GETARG_CSTRING(0))));
}

PG_FUNCTION_INFO_V1(cdp_predicate_from_text);

Datum
cdp_predicate_from_text(PG_FUNCTION_ARGS)
{
	char	   *string = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PG_RETURN_TEXT_P(cstring_to_text(CdpPredicateFromText(string)));
}

PG_FUNCTION_INFO_V1(cdp_predicate_out);

Datum
cdp_predicate_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_CSTRING(TextDatumGetCString(PG_GETARG_DATUM(0)));
}

PG_FUNCTION_INFO_V1(cdp_predicate_recv);

/*
 * The text, checked as the input function does.
 */
Datum
cdp_predicate_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	int			length;
	char	   *string = pq_getmsgtext(buf, buf->len - buf->cursor, &length);

	if (strlen(string) != length)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("predicate contains a null character")));
	PG_RETURN_TEXT_P(cstring_to_text(CdpPredicateFromText(string)));
}

PG_FUNCTION_INFO_V1(cdp_predicate_send);

Datum
cdp_predicate_send(PG_FUNCTION_ARGS)
{
	text	   *predicate = PG_GETARG_TEXT_PP(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendtext(&buf, VARDATA_ANY(predicate), VARSIZE_ANY_EXHDR(predicate));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* ---- comparison: of canonical texts, bytewise ---- */

static int
compare(FunctionCallInfo fcinfo)
{
	text	   *a = PG_GETARG_TEXT_PP(0);
	text	   *b = PG_GETARG_TEXT_PP(1);
	int			alen = VARSIZE_ANY_EXHDR(a);
	int			blen = VARSIZE_ANY_EXHDR(b);
	int			result = memcmp(VARDATA_ANY(a), VARDATA_ANY(b), Min(alen, blen));

	return result != 0 ? (result < 0 ? -1 : 1) : alen < blen ? -1 : alen > blen ? 1 : 0;
}

#define COMPARISON(name, operator) \
PG_FUNCTION_INFO_V1(name); \
Datum \
name(PG_FUNCTION_ARGS) \
{ \
	PG_RETURN_BOOL(compare(fcinfo) operator 0); \
}

COMPARISON(cdp_predicate_eq, ==)
COMPARISON(cdp_predicate_ne, !=)
COMPARISON(cdp_predicate_lt, <)
COMPARISON(cdp_predicate_le, <=)
COMPARISON(cdp_predicate_gt, >)
COMPARISON(cdp_predicate_ge, >=)

PG_FUNCTION_INFO_V1(cdp_predicate_cmp);

Datum
cdp_predicate_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(compare(fcinfo));
}

PG_FUNCTION_INFO_V1(cdp_predicate_hash);

Datum
cdp_predicate_hash(PG_FUNCTION_ARGS)
{
	text	   *predicate = PG_GETARG_TEXT_PP(0);

	return hash_any((unsigned char *) VARDATA_ANY(predicate), VARSIZE_ANY_EXHDR(predicate));
}

PG_FUNCTION_INFO_V1(cdp_predicate_hash_extended);

Datum
cdp_predicate_hash_extended(PG_FUNCTION_ARGS)
{
	text	   *predicate = PG_GETARG_TEXT_PP(0);

	return hash_any_extended((unsigned char *) VARDATA_ANY(predicate),
							 VARSIZE_ANY_EXHDR(predicate), PG_GETARG_INT64(1));
}
