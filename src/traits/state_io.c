/*-------------------------------------------------------------------------
 *
 * state_io.c
 *	  States as bytes: the stored form, which is compact and trusted only as
 *	  far as it can be checked without cost, and the outer form, which is
 *	  checked entirely.
 *
 * IDENTIFICATION
 *	  src/traits/state_io.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "traits/state.h"

void
CdpStateDamaged(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stored state of traits is damaged"),
			 errdetail_internal("%s", detail)));
}

void
CdpPutUInt(StringInfo buf, uint64 value)
{
	char		bytes[10];
	int			n = 0;

	while (value >= 0x80)
	{
		bytes[n++] = (char) (value | 0x80);
		value >>= 7;
	}
	bytes[n++] = (char) value;
	appendBinaryStringInfo(buf, bytes, n);
}

void
CdpPutInt(StringInfo buf, int64 value)
{
	CdpPutUInt(buf, ((uint64) value << 1) ^ (uint64) (value >> 63));
}

uint64
CdpGetUInt(CdpReader *reader)
{
	uint64		result = 0;
	int			shift = 0;

	for (;;)
	{
		uint8		byte;

		if (reader->p >= reader->end || shift > 63)
			CdpStateDamaged("A number runs past the end.");
		byte = (uint8) *reader->p++;
		result |= (uint64) (byte & 0x7F) << shift;
		if ((byte & 0x80) == 0)
			return result;
		shift += 7;
	}
}

int64
CdpGetInt(CdpReader *reader)
{
	uint64		value = CdpGetUInt(reader);

	return (int64) (value >> 1) ^ -(int64) (value & 1);
}

/*
 * A length or a number of elements, each of which takes at least a byte: never
 * more than what is left to read.
 */
int
CdpGetLength(CdpReader *reader)
{
	uint64		value = CdpGetUInt(reader);

	if (value > (uint64) (reader->end - reader->p))
		CdpStateDamaged("A length runs past the end.");
	return (int) value;
}

const char *
CdpGetBytes(CdpReader *reader, int len)
{
	const char *result = reader->p;

	if (len < 0 || len > reader->end - reader->p)
		CdpStateDamaged("A value runs past the end.");
	reader->p += len;
	return result;
}

text *
CdpGetText(CdpReader *reader)
{
	int			len = CdpGetLength(reader);

	return cstring_to_text_with_len(CdpGetBytes(reader, len), len);
}

void
CdpPutText(StringInfo buf, const text *value)
{
	int			len = VARSIZE_ANY_EXHDR(value);

	CdpPutUInt(buf, len);
	appendBinaryStringInfo(buf, VARDATA_ANY(value), len);
}

/*
 * Values by their type's length: integers as varints, the rest as bytes.
 */
static void
put_value(StringInfo buf, const CdpStateRules *rules, Datum value)
{
	if (rules->typbyval)
	{
		switch (rules->typlen)
		{
			case 1:
				CdpPutInt(buf, DatumGetChar(value));
				break;
			case 2:
				CdpPutInt(buf, DatumGetInt16(value));
				break;
			case 4:
				CdpPutInt(buf, DatumGetInt32(value));
				break;
			default:
				CdpPutInt(buf, DatumGetInt64(value));
				break;
		}
	}
	else if (rules->typlen == -1)
		CdpPutText(buf, (text *) DatumGetPointer(value));
	else
		appendBinaryStringInfo(buf, DatumGetPointer(value), rules->typlen);
}

static Datum
get_value(CdpReader *reader, const CdpStateRules *rules)
{
	if (rules->typbyval)
	{
		int64		value = CdpGetInt(reader);

		switch (rules->typlen)
		{
			case 1:
				return CharGetDatum((char) value);
			case 2:
				return Int16GetDatum((int16) value);
			case 4:
				return Int32GetDatum((int32) value);
			default:
				return Int64GetDatum(value);
		}
	}
	else if (rules->typlen == -1)
	{
		text	   *value = CdpGetText(reader);

		/* a number has a header of two bytes, or of four without the first bit */
		if (rules->type == NUMERICOID &&
			(VARSIZE(value) < VARHDRSZ + 2 ||
			 (VARSIZE(value) < VARHDRSZ + 4 &&
			  (*(uint16 *) VARDATA(value) & 0x8000) == 0)))
			CdpStateDamaged("A number has no header.");
		if (rules->type == JSONBOID && VARSIZE(value) < VARHDRSZ + 4)
			CdpStateDamaged("A jsonb value has no header.");
		return PointerGetDatum(value);
	}
	else
	{
		char	   *value = palloc(rules->typlen);

		memcpy(value, CdpGetBytes(reader, rules->typlen), rules->typlen);
		return PointerGetDatum(value);
	}
}

void
CdpStateWrite(StringInfo buf, const CdpState *state)
{
	const CdpStateRules *rules = state->rules;
	TimestampTz at = 0;
	int64		span = 0;

	if (rules->windowed)
	{
		/* differences are small: most items take six bytes */
		CdpPutUInt(buf, state->nitems);
		for (int i = 0; i < state->nitems; i++)
		{
			CdpItem    *item = &state->items[i];

			CdpPutInt(buf, (int64) ((uint64) item->at - (uint64) at));
			CdpPutInt(buf, (int64) ((uint64) item->end - (uint64) item->at - (uint64) span));
			at = item->at;
			span = (int64) ((uint64) item->end - (uint64) item->at);
			if (rules->has_tie)
				CdpPutText(buf, item->tie);
			if (rules->has_value)
				put_value(buf, rules, item->value);
		}
	}
	else if (rules->by_value)
	{
		CdpPutUInt(buf, state->nitems);
		for (int i = 0; i < state->nitems; i++)
		{
			put_value(buf, rules, state->items[i].value);
			if (rules->aggregate == CDP_AGG_MOST_FREQUENT)
				CdpPutUInt(buf, state->items[i].count);
		}
	}
	else
	{
		if (!rules->has_value || rules->aggregate == CDP_AGG_AVG)
			CdpPutUInt(buf, state->n);
		if (rules->has_tie)
		{
			CdpPutInt(buf, state->at);
			CdpPutText(buf, state->tie);
		}
		if (rules->has_value)
			put_value(buf, rules, state->value);
	}
}

/*
 * Read a stored state that is not empty.  Everything is bounds-checked; data
 * that cannot be is refused with DATA_CORRUPTED.
 */
CdpState *
CdpStateRead(const CdpStateRules *rules, const char *data, int len)
{
	CdpReader	reader = {data, data + len};
	CdpState   *state = CdpStateMake(rules);

	if (rules->windowed || rules->by_value)
	{
		int			n = CdpGetLength(&reader);
		TimestampTz at = 0;
		int64		span = 0;

		state->maxitems = n + 1;
		state->items = MemoryContextAllocHuge(CurrentMemoryContext,
											  (Size) state->maxitems * sizeof(CdpItem));
		for (int i = 0; i < n; i++)
		{
			CdpItem    *item = &state->items[i];

			memset(item, 0, sizeof(CdpItem));
			if (rules->windowed)
			{
				at = (TimestampTz) ((uint64) at + (uint64) CdpGetInt(&reader));
				span = (int64) ((uint64) span + (uint64) CdpGetInt(&reader));
				item->at = at;
				item->end = (TimestampTz) ((uint64) at + (uint64) span);
				if (rules->has_tie)
					item->tie = CdpGetText(&reader);
				if (rules->has_value)
					item->value = get_value(&reader, rules);
			}
			else
			{
				item->value = get_value(&reader, rules);
				item->count = 1;
				if (rules->aggregate == CDP_AGG_MOST_FREQUENT)
					item->count = (int64) CdpGetUInt(&reader);
			}
		}
		state->nitems = n;
	}
	else
	{
		if (!rules->has_value || rules->aggregate == CDP_AGG_AVG)
		{
			state->n = (int64) CdpGetUInt(&reader);
			if (state->n <= 0)
				CdpStateDamaged("A count is not positive.");
		}
		if (rules->has_tie)
		{
			state->at = CdpGetInt(&reader);
			state->tie = CdpGetText(&reader);
		}
		if (rules->has_value)
		{
			state->value = get_value(&reader, rules);
			state->has_value = true;
		}
	}
	if (reader.p != reader.end)
		CdpStateDamaged("Bytes are left over.");
	return state;
}

/*
 * The outer form.
 */

static void
send_text(StringInfo buf, const text *value)
{
	int			len = VARSIZE_ANY_EXHDR(value);

	pq_sendint32(buf, len);
	pq_sendbytes(buf, VARDATA_ANY(value), len);
}

void
CdpStateSend(StringInfo buf, const CdpState *state)
{
	const CdpStateRules *rules = state->rules;
	FmgrInfo	send;

	if (rules->has_value)
	{
		Oid			function;
		bool		varlena;

		getTypeBinaryOutputInfo(rules->type, &function, &varlena);
		fmgr_info(function, &send);
	}
#define SEND_VALUE(v) \
	do { \
		bytea *bytes_ = SendFunctionCall(&send, (v)); \
		pq_sendint32(buf, VARSIZE(bytes_) - VARHDRSZ); \
		pq_sendbytes(buf, VARDATA(bytes_), VARSIZE(bytes_) - VARHDRSZ); \
	} while (0)

	pq_sendint8(buf, rules->aggregate);
	pq_sendint8(buf, rules->windowed);
	pq_sendint32(buf, rules->type);
	if (rules->windowed || rules->by_value)
	{
		pq_sendint32(buf, state->nitems);
		for (int i = 0; i < state->nitems; i++)
		{
			CdpItem    *item = &state->items[i];

			if (rules->windowed)
			{
				pq_sendint64(buf, item->at);
				pq_sendint64(buf, item->end);
			}
			else
				pq_sendint64(buf, item->count);
			if (rules->windowed && rules->has_tie)
				send_text(buf, item->tie);
			if (rules->has_value)
				SEND_VALUE(item->value);
		}
	}
	else
	{
		pq_sendint64(buf, state->n);
		if (rules->has_tie)
		{
			pq_sendint64(buf, state->at);
			send_text(buf, state->tie);
		}
		if (rules->has_value)
			SEND_VALUE(state->value);
	}
#undef SEND_VALUE
}

static void
bad_state(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("invalid state of a trait"),
			 errdetail("%s", detail)));
}

text *
CdpReceiveText(StringInfo buf, int maxlen)
{
	int32		len = (int32) pq_getmsgint(buf, 4);
	const char *bytes;

	if (len < 0 || len > maxlen)
		bad_state("A text has an impossible length.");
	bytes = pq_getmsgbytes(buf, len);
	pg_verifymbstr(bytes, len, false);
	return cstring_to_text_with_len(bytes, len);
}

TimestampTz
CdpReceiveTime(StringInfo buf)
{
	TimestampTz result = pq_getmsgint64(buf);

	if (!IS_VALID_TIMESTAMP(result))
		bad_state("A time is out of range.");
	return result;
}

static Datum
receive_value(StringInfo buf, FmgrInfo *receive, Oid typioparam)
{
	StringInfoData value;
	int32		len = (int32) pq_getmsgint(buf, 4);
	const char *bytes;
	Datum		result;

	if (len < 0)
		bad_state("A value has an impossible length.");
	bytes = pq_getmsgbytes(buf, len);
	/* receive functions may rely on a terminating zero */
	initStringInfo(&value);
	appendBinaryStringInfo(&value, bytes, len);
	result = ReceiveFunctionCall(receive, &value, typioparam, -1);
	if (value.cursor != value.len)
		bad_state("A value has bytes left over.");
	return result;
}

/*
 * Read the outer form and check all of it, order and counts included: the
 * items are folded in afresh, and must come out as they went in.
 */
CdpState *
CdpStateReceive(StringInfo buf)
{
	CdpStateRules *rules = (CdpStateRules *) palloc(sizeof(CdpStateRules));
	CdpState   *state;
	int			aggregate = pq_getmsgbyte(buf);
	int			windowed = pq_getmsgbyte(buf);
	Oid			type = (Oid) pq_getmsgint(buf, 4);
	FmgrInfo	receive;
	Oid			typioparam = InvalidOid;

	if (aggregate < CDP_AGG_COUNT || aggregate > CDP_AGG_EXISTS)
		bad_state("The aggregate is unknown.");
	if (windowed > 1)
		bad_state("A flag is unknown.");
	CdpStateRulesInit(rules, (CdpAggregate) aggregate, windowed != 0, type);
	if (rules->type != type)
		bad_state("The aggregate takes no values.");
	if (rules->has_value)
	{
		Oid			function;

		getTypeBinaryInputInfo(type, &function, &typioparam);
		fmgr_info(function, &receive);
	}

	state = CdpStateMake(rules);
	if (rules->windowed || rules->by_value)
	{
		int32		n = (int32) pq_getmsgint(buf, 4);

		if (n <= 0 || n > (buf->len - buf->cursor) / 8)
			bad_state("The number of items is impossible.");
		for (int i = 0; i < n; i++)
		{
			int64		count = 1;
			TimestampTz at = 0;
			TimestampTz end = 0;
			text	   *tie = NULL;
			Datum		value = (Datum) 0;
			int			before = state->nitems;

			if ((i & 0xFFF) == 0)
				CHECK_FOR_INTERRUPTS();
			if (rules->windowed)
			{
				at = CdpReceiveTime(buf);
				end = CdpReceiveTime(buf);
				if (end <= at)
					bad_state("A window ends before it begins.");
				if (rules->has_tie)
					tie = CdpReceiveText(buf, CDP_MAX_TIE);
			}
			else
			{
				count = pq_getmsgint64(buf);
				if (count <= 0 ||
					(count != 1 && aggregate == CDP_AGG_UNIQUE_COUNT))
					bad_state("A count is impossible.");
			}
			if (rules->has_value)
				value = receive_value(buf, &receive, typioparam);
			if (CdpStateAdd(state, value, at, end, tie) != before)
				bad_state("Items are not in order.");
			state->items[before].count = count;
		}
	}
	else
	{
		int64		n = pq_getmsgint64(buf);
		bool		counts = !rules->has_value || aggregate == CDP_AGG_AVG;

		if (counts ? (n <= 0 || (aggregate == CDP_AGG_EXISTS && n != 1)) : n != 0)
			bad_state("A count is impossible.");
		state->n = n;
		if (rules->has_tie)
		{
			state->at = CdpReceiveTime(buf);
			state->tie = CdpReceiveText(buf, CDP_MAX_TIE);
		}
		if (rules->has_value)
		{
			state->value = receive_value(buf, &receive, typioparam);
			state->has_value = true;
		}
	}
	return state;
}

/*
 * The text form of both types is the outer form in hexadecimal.
 */
void
CdpHexToBuffer(StringInfo buf, const char *hex, const char *type)
{
	Size		len = strlen(hex);

	if (len < 4 || len % 2 != 0 || hex[0] != '\\' || hex[1] != 'x')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid input syntax for type %s", type)));
	initStringInfo(buf);
	enlargeStringInfo(buf, len / 2);
	buf->len = (int) hex_decode(hex + 2, len - 2, buf->data);
	buf->data[buf->len] = '\0';
}

char *
CdpBufferToHex(StringInfo buf)
{
	char	   *result = palloc(add_size(mul_size(buf->len, 2), 3));

	result[0] = '\\';
	result[1] = 'x';
	result[2 + hex_encode(buf->data, buf->len, result + 2)] = '\0';
	return result;
}
