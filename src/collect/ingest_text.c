/*-------------------------------------------------------------------------
 *
 * ingest_text.c
 *	  cdp.ingest_text(): the body of a request as it came.
 *
 *	  A jsonb argument is all or nothing: one NUL character in one event, and
 *	  the other 499 of the batch are refused with it, before cdp.ingest() sees
 *	  any of them.  Here the text is converted as a whole when that works;
 *	  when not, it is cut into its payloads, each is converted in a
 *	  subtransaction, and those that are no jsonb are put aside as text.
 *
 * IDENTIFICATION
 *	  src/collect/ingest_text.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/resowner.h"

#include "collect/ingest.h"

PG_FUNCTION_INFO_V1(cdp_ingest_text);

/*
 * The text as jsonb; NULL, and the reason, when it is none.
 */
static Jsonb *
convert(const char *s, int len, CdpRefusal *refusal)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *copy = pnstrdup(s, len);
	Jsonb	   *volatile result = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(copy)));
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			category;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;

		/* only what the text is to blame for */
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category != ERRCODE_DATA_EXCEPTION &&
			category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			ReThrowError(error);
		(void) CdpRefuse(refusal, error->sqlerrcode, "payload is not valid JSON",
						 error->detail ?
						 psprintf("%s: %s", error->message, error->detail) :
						 error->message);
		result = NULL;
	}
	PG_END_TRY();
	pfree(copy);
	return result;
}

static const char *
skip_blanks(const char *s, const char *end)
{
	while (s < end && (*s == ' ' || *s == '\t' || *s == '\n' || *s == '\r'))
		s++;
	return s;
}

/*
 * The end of the value that begins here: the first comma, colon or closing
 * bracket that belongs to none of its strings, arrays and objects.  All
 * server encodings keep these characters apart from parts of longer ones.
 */
static const char *
skip_value(const char *s, const char *end)
{
	int			depth = 0;

	for (; s < end; s++)
	{
		switch (*s)
		{
			case '"':
				for (s++; s < end && *s != '"'; s++)
					if (*s == '\\')
						s++;
				if (s >= end)
					return end;
				break;
			case '[':
			case '{':
				depth++;
				break;
			case ']':
			case '}':
				if (depth-- == 0)
					return s;
				break;
			case ',':
			case ':':
				if (depth == 0)
					return s;
				break;
			default:
				break;
		}
	}
	return end;
}

/*
 * The payloads: what is between the brackets of a top-level array, or of the
 * array "batch" in a top-level object.  False when there is no such array.
 */
static bool
find_array(const char *s, const char *end, const char **first, const char **last)
{
	s = skip_blanks(s, end);
	if (s < end && *s == '[')
	{
		*first = s + 1;
		*last = end;
		return true;
	}
	if (s >= end || *s != '{')
		return false;
	for (s++; s < end; s++)
	{
		const char *key = skip_blanks(s, end);
		const char *after = skip_value(key, end);
		bool		found = after - key >= 7 && memcmp(key, "\"batch\"", 7) == 0 &&
			skip_blanks(key + 7, after) == after;

		if (after >= end || *after != ':')
			return false;
		s = skip_blanks(after + 1, end);
		if (found && s < end && *s == '[')
		{
			*first = s + 1;
			*last = skip_value(s, end);
			return true;
		}
		s = skip_value(s, end);
		if (s >= end || *s != ',')
			return false;
	}
	return false;
}

static void
put_text_aside(CdpIngest *ingest, const char *s, int len, CdpRefusal *refusal)
{
	JsonbValue	value;

	ingest->seen++;
	value.type = jbvString;
	value.val.string.val = (char *) s;
	value.val.string.len = len;
	/* longer ones do not fit into a jsonb string */
	if (len > JENTRY_OFFLENMASK)
		value.val.string.len = pg_mbcliplen(s, len, JENTRY_OFFLENMASK);
	CdpIngestPutAside(ingest, &value, NULL, 0, refusal);
}

/*
 * Payload by payload.
 */
static void
ingest_pieces(CdpIngest *ingest, const char *s, const char *end, CdpRefusal *refusal)
{
	const char *first;
	const char *last;
	const char *start;
	Jsonb	   *envelope = NULL;
	JsonbContainer *batch = NULL;
	StringInfoData buf;
	CdpRefusal	whole = *refusal;

	if (!find_array(s, end, &first, &last))
	{
		put_text_aside(ingest, s, end - s, refusal);
		return;
	}

	/* the body of the batch without its messages, for what they inherit */
	if (last < end)
	{
		initStringInfo(&buf);
		appendBinaryStringInfo(&buf, s, first - s);
		appendStringInfoChar(&buf, ']');
		appendBinaryStringInfo(&buf, last, end - last);
		envelope = convert(buf.data, buf.len, refusal);
		pfree(buf.data);
		if (envelope == NULL)
		{
			put_text_aside(ingest, s, end - s, refusal);
			return;
		}
		batch = &envelope->root;
	}

	for (start = skip_blanks(first, last); start < last; start = skip_blanks(start, last))
	{
		const char *stop = skip_value(start, last);
		Jsonb	   *payload;

		CHECK_FOR_INTERRUPTS();
		payload = NULL;
		if (stop > start || *stop == ',')
			payload = convert(start, stop - start, refusal);
		if (stop == start && *stop != ',')
			;					/* an empty array */
		else if (payload == NULL)
			put_text_aside(ingest, start, stop - start, refusal);
		else
		{
			JsonbValue	value;

			if (JB_ROOT_IS_SCALAR(payload))
				(void) JsonbExtractScalar(&payload->root, &value);
			else
			{
				value.type = jbvBinary;
				value.val.binary.data = &payload->root;
				value.val.binary.len = VARSIZE(payload) - VARHDRSZ;
			}
			CdpIngestOne(ingest, &value, batch);
			pfree(payload);
		}
		if (stop < last && *stop == ',')
			start = stop + 1;
		else
		{
			/* the end of the array, or of what can be understood */
			start = skip_blanks(stop < last ? stop + 1 : stop, last);
			if (start < last)
			{
				(void) CdpRefuse(refusal, ERRCODE_INVALID_TEXT_REPRESENTATION,
								 "payload is not valid JSON",
								 "It follows the end of the array of payloads.");
				put_text_aside(ingest, start, last - start, refusal);
			}
			break;
		}
	}

	/* each piece is well-formed: then some may be missing at the end */
	if (ingest->rejected == 0)
		put_text_aside(ingest, s, end - s, &whole);
}

/*
 * cdp.ingest_text(payload text, source text)
 *		returns table (accepted bigint, rejected bigint, errors jsonb)
 */
Datum
cdp_ingest_text(PG_FUNCTION_ARGS)
{
	CdpIngest	ingest;
	text	   *body;
	Jsonb	   *payload;
	CdpRefusal	refusal;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("payload must not be NULL")));
	body = PG_GETARG_TEXT_PP(0);
	CdpIngestBegin(&ingest, PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	payload = convert(VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body), &refusal);
	if (payload != NULL)
		CdpIngestJsonb(&ingest, payload);
	else
		ingest_pieces(&ingest, VARDATA_ANY(body),
					  VARDATA_ANY(body) + VARSIZE_ANY_EXHDR(body), &refusal);
	CdpIngestEnd(&ingest, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
