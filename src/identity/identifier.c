/*-------------------------------------------------------------------------
 *
 * identifier.c
 *	  The type cdp.identifier: kind:value.
 *
 *	  The kind matches [a-z_][a-z0-9_.]{0,62}; the value is any text, the
 *	  empty one included.  Input checks this syntax and nothing else: it reads
 *	  no table, so that a restore may load values before kinds, and one bad
 *	  address does not stop a COPY.  What the kind's rules make of a value is
 *	  decided where identifiers are applied and looked up (kind.c).
 *
 *	  The representation is that of text, hence a validated text Datum is an
 *	  identifier as it stands.  Order and equality are bytewise, so they do not
 *	  change with collations or libraries, and in(out(x)) = x.
 *
 * IDENTIFICATION
 *	  src/identity/identifier.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/sortsupport.h"
#include "utils/varlena.h"

#include "compat.h"
#include "identity/identity.h"

/* Longest kind, in bytes: what an identifier of PostgreSQL may have. */
#define CDP_MAX_KIND	63

/* How much of a refused value an error message shows, in bytes. */
#define CDP_MAX_SHOWN	100

PG_FUNCTION_INFO_V1(cdp_identifier_in);
PG_FUNCTION_INFO_V1(cdp_identifier_out);
PG_FUNCTION_INFO_V1(cdp_identifier_recv);
PG_FUNCTION_INFO_V1(cdp_identifier_send);
PG_FUNCTION_INFO_V1(cdp_identifier_from_text);
PG_FUNCTION_INFO_V1(cdp_identifier_text);
PG_FUNCTION_INFO_V1(cdp_identifier_make);
PG_FUNCTION_INFO_V1(cdp_identifier_kind);
PG_FUNCTION_INFO_V1(cdp_identifier_value);
PG_FUNCTION_INFO_V1(cdp_identifier_eq);
PG_FUNCTION_INFO_V1(cdp_identifier_ne);
PG_FUNCTION_INFO_V1(cdp_identifier_lt);
PG_FUNCTION_INFO_V1(cdp_identifier_le);
PG_FUNCTION_INFO_V1(cdp_identifier_gt);
PG_FUNCTION_INFO_V1(cdp_identifier_ge);
PG_FUNCTION_INFO_V1(cdp_identifier_cmp);
PG_FUNCTION_INFO_V1(cdp_identifier_sortsupport);
PG_FUNCTION_INFO_V1(cdp_identifier_hash);
PG_FUNCTION_INFO_V1(cdp_identifier_hash_extended);

/*
 * Length of the well-formed kind that s begins with, up to a byte that cannot
 * belong to one; 0 when s begins with none.  May exceed CDP_MAX_KIND.
 */
static int
scan_kind(const char *s, int len)
{
	int			i;

	for (i = 0; i < len; i++)
	{
		char		c = s[i];

		if ((c >= 'a' && c <= 'z') || c == '_')
			continue;
		if (i > 0 && ((c >= '0' && c <= '9') || c == '.'))
			continue;
		break;
	}
	return i;
}

/*
 * Is this the text of an identifier?  Otherwise reports an error, softly when
 * escontext says so, and returns false.
 */
static bool
check_syntax(const char *s, int len, Node *escontext)
{
	int			kindlen = scan_kind(s, len);
	int			shown;

	if (kindlen > 0 && kindlen <= CDP_MAX_KIND &&
		kindlen < len && s[kindlen] == ':')
		return true;

	shown = pg_mbcliplen(s, len, CDP_MAX_SHOWN);
	if (kindlen > CDP_MAX_KIND)
		ereturn(escontext, false,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid input syntax for type cdp.identifier: \"%.*s%s\"",
						shown, s, shown < len ? "..." : ""),
				 errdetail("The kind is longer than %d bytes.", CDP_MAX_KIND)));
	ereturn(escontext, false,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("invalid input syntax for type cdp.identifier: \"%.*s%s\"",
					shown, s, shown < len ? "..." : ""),
			 errhint("Write it as kind:value, for example email:ada@example.com; "
					 "a kind has lower-case letters, digits, underscores and dots.")));
}

int
CdpIdentifierKindLength(const CdpIdentifier *identifier)
{
	const char *data = VARDATA_ANY(identifier);
	const char *colon = memchr(data, ':', VARSIZE_ANY_EXHDR(identifier));

	/* values are checked on their way in, so this is damage */
	if (colon == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("value of type cdp.identifier has no kind")));
	return colon - data;
}

CdpIdentifier *
CdpIdentifierMake(const char *kind, int kindlen, const char *value, int valuelen)
{
	CdpIdentifier *result;
	char	   *data;

	if (kindlen == 0 || kindlen > CDP_MAX_KIND ||
		scan_kind(kind, kindlen) != kindlen)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("\"%.*s\" is not the name of a kind of identifier",
						pg_mbcliplen(kind, kindlen, CDP_MAX_SHOWN), kind),
				 errhint("A kind has at most %d lower-case letters, digits, "
						 "underscores and dots, and begins with a letter or an underscore.",
						 CDP_MAX_KIND)));

	result = (CdpIdentifier *) palloc((Size) VARHDRSZ + kindlen + 1 + valuelen);
	SET_VARSIZE(result, VARHDRSZ + kindlen + 1 + valuelen);
	data = VARDATA(result);
	memcpy(data, kind, kindlen);
	data[kindlen] = ':';
	memcpy(data + kindlen + 1, value, valuelen);
	return result;
}

Datum
cdp_identifier_in(PG_FUNCTION_ARGS)
{
	char	   *s = PG_GETARG_CSTRING(0);
	int			len = strlen(s);

	if (!check_syntax(s, len, fcinfo->context))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(s, len));
}

Datum
cdp_identifier_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_CSTRING(TextDatumGetCString(PG_GETARG_DATUM(0)));
}

/*
 * The wire carries the text.  pq_getmsgtext converts it from the client's
 * encoding and refuses bytes that are not valid in it, zero bytes included.
 */
Datum
cdp_identifier_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	char	   *s;
	int			len;

	s = pq_getmsgtext(buf, buf->len - buf->cursor, &len);
	(void) check_syntax(s, len, NULL);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(s, len));
}

Datum
cdp_identifier_send(PG_FUNCTION_ARGS)
{
	CdpIdentifier *identifier = PG_GETARG_IDENTIFIER_PP(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendtext(&buf, VARDATA_ANY(identifier), VARSIZE_ANY_EXHDR(identifier));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/*
 * cdp.identifier(text) returns cdp.identifier: the implicit cast.
 */
Datum
cdp_identifier_from_text(PG_FUNCTION_ARGS)
{
	text	   *arg = PG_GETARG_TEXT_PP(0);

	(void) check_syntax(VARDATA_ANY(arg), VARSIZE_ANY_EXHDR(arg), NULL);
	PG_RETURN_TEXT_P(arg);
}

/*
 * cdp.identifier(kind text, value cdp.key) returns cdp.identifier
 */
Datum
cdp_identifier_make(PG_FUNCTION_ARGS)
{
	text	   *kind = PG_GETARG_TEXT_PP(0);
	text	   *value = PG_GETARG_TEXT_PP(1);

	PG_RETURN_POINTER(CdpIdentifierMake(VARDATA_ANY(kind),
										VARSIZE_ANY_EXHDR(kind),
										VARDATA_ANY(value),
										VARSIZE_ANY_EXHDR(value)));
}

/*
 * identifier::text: the same bytes.
 */
Datum
cdp_identifier_text(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/*
 * cdp.kind(cdp.identifier) returns text: what is before the first colon.
 */
Datum
cdp_identifier_kind(PG_FUNCTION_ARGS)
{
	CdpIdentifier *identifier = PG_GETARG_IDENTIFIER_PP(0);

	PG_RETURN_TEXT_P(cstring_to_text_with_len(VARDATA_ANY(identifier),
											  CdpIdentifierKindLength(identifier)));
}

/*
 * cdp.value(cdp.identifier) returns text: what is after the first colon.
 */
Datum
cdp_identifier_value(PG_FUNCTION_ARGS)
{
	CdpIdentifier *identifier = PG_GETARG_IDENTIFIER_PP(0);
	int			start = CdpIdentifierKindLength(identifier) + 1;

	PG_RETURN_TEXT_P(cstring_to_text_with_len(VARDATA_ANY(identifier) + start,
											  VARSIZE_ANY_EXHDR(identifier) - start));
}

/*
 * Bytewise order; of two where one begins with the other, the shorter first.
 */
static int
compare(FunctionCallInfo fcinfo)
{
	CdpIdentifier *a = PG_GETARG_IDENTIFIER_PP(0);
	CdpIdentifier *b = PG_GETARG_IDENTIFIER_PP(1);
	int			lena = VARSIZE_ANY_EXHDR(a);
	int			lenb = VARSIZE_ANY_EXHDR(b);
	int			result;

	result = memcmp(VARDATA_ANY(a), VARDATA_ANY(b), Min(lena, lenb));
	if (result == 0 && lena != lenb)
		result = lena < lenb ? -1 : 1;
	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	return result;
}

/*
 * Lengths are known without fetching the value, and they mostly differ.
 */
static bool
same(FunctionCallInfo fcinfo)
{
	if (toast_raw_datum_size(PG_GETARG_DATUM(0)) !=
		toast_raw_datum_size(PG_GETARG_DATUM(1)))
		return false;
	return compare(fcinfo) == 0;
}

Datum
cdp_identifier_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(same(fcinfo));
}

Datum
cdp_identifier_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!same(fcinfo));
}

Datum
cdp_identifier_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare(fcinfo) < 0);
}

Datum
cdp_identifier_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare(fcinfo) <= 0);
}

Datum
cdp_identifier_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare(fcinfo) > 0);
}

Datum
cdp_identifier_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare(fcinfo) >= 0);
}

Datum
cdp_identifier_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(compare(fcinfo));
}

/*
 * The order is that of text under "C", so text's sorting, with abbreviated
 * keys, serves.
 */
Datum
cdp_identifier_sortsupport(PG_FUNCTION_ARGS)
{
	SortSupport ssup = (SortSupport) PG_GETARG_POINTER(0);
	MemoryContext oldcontext = MemoryContextSwitchTo(ssup->ssup_cxt);

	varstr_sortsupport(ssup, TEXTOID, C_COLLATION_OID);
	MemoryContextSwitchTo(oldcontext);
	PG_RETURN_VOID();
}

Datum
cdp_identifier_hash(PG_FUNCTION_ARGS)
{
	CdpIdentifier *identifier = PG_GETARG_IDENTIFIER_PP(0);
	Datum		result;

	result = hash_any((unsigned char *) VARDATA_ANY(identifier),
					  VARSIZE_ANY_EXHDR(identifier));
	PG_FREE_IF_COPY(identifier, 0);
	return result;
}

Datum
cdp_identifier_hash_extended(PG_FUNCTION_ARGS)
{
	CdpIdentifier *identifier = PG_GETARG_IDENTIFIER_PP(0);
	Datum		result;

	result = hash_any_extended((unsigned char *) VARDATA_ANY(identifier),
							   VARSIZE_ANY_EXHDR(identifier),
							   PG_GETARG_INT64(1));
	PG_FREE_IF_COPY(identifier, 0);
	return result;
}
