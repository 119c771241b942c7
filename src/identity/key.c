/*-------------------------------------------------------------------------
 *
 * key.c
 *	  The type cdp.key: an id of the application's own world, as text.
 *
 *	  It exists so that functions can take ids of any type: integers, uuids
 *	  and text become keys implicitly, and a literal is one as it stands.  The
 *	  representation is that of text; there are no operators, so that the
 *	  implicit casts make no expression elsewhere ambiguous.
 *
 * IDENTIFICATION
 *	  src/identity/key.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"

#include "identity/identity.h"

PG_FUNCTION_INFO_V1(cdp_key_in);
PG_FUNCTION_INFO_V1(cdp_key_out);
PG_FUNCTION_INFO_V1(cdp_key_recv);
PG_FUNCTION_INFO_V1(cdp_key_send);

Datum
cdp_key_in(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(PG_GETARG_CSTRING(0)));
}

Datum
cdp_key_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_CSTRING(TextDatumGetCString(PG_GETARG_DATUM(0)));
}

/*
 * pq_getmsgtext refuses what is not valid text in the client's encoding.
 */
Datum
cdp_key_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	char	   *s;
	int			len;

	s = pq_getmsgtext(buf, buf->len - buf->cursor, &len);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(s, len));
}

Datum
cdp_key_send(PG_FUNCTION_ARGS)
{
	text	   *key = PG_GETARG_TEXT_PP(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendtext(&buf, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}
