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
#include "common/int.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

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
CdpPutLongUInt(StringInfo buf, uint64 value)
{
	char	   *p;

	if (buf->len + 10 >= buf->maxlen)
		enlargeStringInfo(buf, 10);
	p = buf->data + buf->len;
	while (value >= 0x80)
	{
		*p++ = (char) (value | 0x80);
		value >>= 7;
	}
	*p++ = (char) value;
	*p = '\0';
	buf->len = p - buf->data;
}

uint64
CdpGetLongUInt(CdpReader *reader)
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

/* What kind of state follows, in one byte. */
uint8
CdpStateCode(const CdpStateRules *rules)
{
	return (uint8) (rules->aggregate | (rules->granularity > 0 ? 0x20 : 0) |
					(rules->delayed ? 0x40 : 0) | (rules->windowed ? 0x80 : 0));
}

/*
 * Which fields the items of a state have; the same for both forms.
 */
typedef struct ItemFields
{
	bool		at;
	bool		begin;
	bool		end;
	bool		tie;
	bool		value;
	bool		count;
} ItemFields;

static ItemFields
item_fields(const CdpStateRules *rules, bool sketched)
{
	ItemFields	fields = {0};

	if (rules->windowed)
	{
		fields.at = fields.end = true;
		fields.begin = rules->delayed;
		fields.tie = rules->has_tie;
		fields.value = rules->has_value;
		return fields;
	}
	fields.count = rules->has_counts;
	switch (rules->shape)
	{
		case CDP_SHAPE_VALUES:
			fields.at = sketched || rules->has_tie;
			fields.tie = rules->has_tie;
			fields.value = !sketched;
			break;
		case CDP_SHAPE_LIST:
			fields.at = fields.tie = fields.value = true;
			break;
		default:
			fields.at = fields.end = true;
			break;
	}
	return fields;
}

static bool
has_items(const CdpStateRules *rules)
{
	return rules->windowed || rules->shape != CDP_SHAPE_SCALAR;
}

void
CdpStateRulesWrite(StringInfo buf, const CdpStateRules *rules)
{
	int64		parameters[CDP_MAX_PARAMETERS];
	const char *timezone;
	int			n = CdpStateParameters(rules, parameters, &timezone);

	for (int i = 0; i < n; i++)
		CdpPutInt(buf, parameters[i]);
	if (timezone)
	{
		int			len = strlen(timezone);

		CdpPutUInt(buf, len);
		appendBinaryStringInfo(buf, timezone, len);
	}
}

/* Stored options must be those of the rules; or, without rules, make them. */
static void
read_parameters(CdpReader *reader, const CdpStateRules *rules, CdpStateRules *found)
{
	int64		parameters[CDP_MAX_PARAMETERS] = {0};
	int64		expected[CDP_MAX_PARAMETERS];
	const char *timezone;
	int			n = CdpStateParameters(rules, expected, &timezone);
	const char *zone = NULL;
	int			len = 0;

	for (int i = 0; i < n; i++)
		parameters[i] = CdpGetInt(reader);
	if (timezone)
	{
		len = CdpGetLength(reader);
		zone = CdpGetBytes(reader, len);
	}
	if (found)
	{
		if (!CdpStateParametersSet(found, parameters,
								   zone ? pnstrdup(zone, len) : NULL))
			CdpStateDamaged("An option is impossible.");
		return;
	}
	for (int i = 0; i < n; i++)
		if (parameters[i] != expected[i])
			CdpStateDamaged("An option is another one.");
	if (zone && (strlen(timezone) != len || memcmp(zone, timezone, len) != 0))
		CdpStateDamaged("The time zone is another one.");
}

void
CdpStateWrite(StringInfo buf, const CdpState *state)
{
	const CdpStateRules *rules = state->rules;

	CdpStateRulesWrite(buf, rules);
	if (rules->granularity > 0)
	{
		CdpCellsWrite(buf, state);
		return;
	}
	if (has_items(rules))
	{
		ItemFields	fields = item_fields(rules, state->sketched);
		TimestampTz at = 0;
		int64		span = 0;

		if (state->registers || state->sketched)
			CdpPutUInt(buf, 0);
		if (state->registers)
		{
			appendBinaryStringInfo(buf, (char *) state->registers, CDP_SKETCH_REGISTERS);
			return;
		}
		if (state->chunks != NULL && state->chunks->n > 0)
		{
			CdpPutUInt(buf, 0);
			CdpChunksWrite(buf, state);
		}
		/* differences are small: most items take six bytes */
		CdpPutUInt(buf, state->nitems);
		for (int i = 0; i < state->nitems; i++)
		{
			CdpItem    *item = &state->items[i];

			if (fields.at)
				CdpPutInt(buf, (int64) ((uint64) item->at - (uint64) at));
			if (fields.begin)
				CdpPutInt(buf, (int64) ((uint64) item->begin - (uint64) item->at));
			if (fields.end)
			{
				CdpPutInt(buf, (int64) ((uint64) item->end - (uint64) item->at - (uint64) span));
				span = (int64) ((uint64) item->end - (uint64) item->at);
			}
			at = item->at;
			if (fields.tie)
				CdpPutText(buf, item->tie);
			if (fields.value)
				put_value(buf, rules, item->value);
			if (fields.count)
				CdpPutUInt(buf, item->count);
		}
		return;
	}
	if (rules->has_n)
		CdpPutUInt(buf, state->n);
	if (rules->has_at)
		CdpPutInt(buf, state->at);
	if (rules->has_tie)
		CdpPutText(buf, state->tie);
	if (rules->has_value)
		put_value(buf, rules, state->value);
	if (rules->aggregate == CDP_AGG_STDDEV)
		put_value(buf, rules, state->value2);
}

static void
read_items(CdpReader *reader, CdpState *state)
{
	const CdpStateRules *rules = state->rules;
	int			n = CdpGetLength(reader);
	ItemFields	fields;
	TimestampTz at = 0;
	int64		span = 0;

	if (n == 0 && rules->aggregate == CDP_AGG_UNIQUE_COUNT && !rules->windowed)
	{
		state->registers = (uint8 *) palloc(CDP_SKETCH_REGISTERS);
		memcpy(state->registers, CdpGetBytes(reader, CDP_SKETCH_REGISTERS),
			   CDP_SKETCH_REGISTERS);
		return;
	}
	if (n == 0 && rules->aggregate == CDP_AGG_PERCENTILE && !rules->windowed)
	{
		state->sketched = true;
		n = CdpGetLength(reader);
	}
	if (n == 0 && rules->windowed)
	{
		CdpChunksRead(reader, state);
		n = CdpGetLength(reader);
	}
	fields = item_fields(rules, state->sketched);
	state->maxitems = n + 1;
	state->items = MemoryContextAllocHuge(CurrentMemoryContext,
										  (Size) state->maxitems * sizeof(CdpItem));
	for (int i = 0; i < n; i++)
	{
		CdpItem    *item = &state->items[i];

		memset(item, 0, sizeof(CdpItem));
		item->count = 1;
		if (fields.at)
			at = (TimestampTz) ((uint64) at + (uint64) CdpGetInt(reader));
		item->at = item->begin = item->end = at;
		if (fields.begin)
			item->begin = (TimestampTz) ((uint64) at + (uint64) CdpGetInt(reader));
		if (fields.end)
		{
			span = (int64) ((uint64) span + (uint64) CdpGetInt(reader));
			item->end = (TimestampTz) ((uint64) at + (uint64) span);
		}
		if (fields.tie)
			item->tie = CdpGetText(reader);
		if (fields.value)
			item->value = get_value(reader, rules);
		if (fields.count)
			item->count = (int64) CdpGetUInt(reader);
	}
	state->nitems = n;
}

static CdpState *
read_state(CdpReader *reader, const CdpStateRules *rules)
{
	CdpState   *state = CdpStateMake(rules);

	if (rules->granularity > 0)
		CdpCellsRead(reader, state);
	else if (has_items(rules))
		read_items(reader, state);
	else
	{
		if (rules->has_n)
		{
			state->n = (int64) CdpGetUInt(reader);
			if (state->n <= 0)
				CdpStateDamaged("A count is not positive.");
		}
		if (rules->has_at)
			state->at = CdpGetInt(reader);
		if (rules->has_tie)
			state->tie = CdpGetText(reader);
		if (rules->has_value)
		{
			state->value = get_value(reader, rules);
			state->has_value = true;
		}
		if (rules->aggregate == CDP_AGG_STDDEV)
			state->value2 = get_value(reader, rules);
	}
	if (reader->p != reader->end)
		CdpStateDamaged("Bytes are left over.");
	return state;
}

/*
 * Read a stored state that is not empty.  Everything is bounds-checked; data
 * that cannot be is refused with DATA_CORRUPTED.
 */
CdpState *
CdpStateRead(const CdpStateRules *rules, const char *data, int len)
{
	CdpReader	reader = {data, data + len};

	read_parameters(&reader, rules, NULL);
	return read_state(&reader, rules);
}

/*
 * The same without rules: a state says itself what it is.  One that is empty
 * consists of options.
 */
CdpState *
CdpStateReadAny(uint8 code, Oid type, bool empty, const char *data, int len)
{
	CdpReader	reader = {data, data + len};
	CdpStateRules *rules = (CdpStateRules *) palloc(sizeof(CdpStateRules));

	if (!CdpAggregateFolds(code & 0x1F) || ((code & 0x60) != 0 && (code & 0x80) == 0))
		CdpStateDamaged("The aggregate is unknown.");
	CdpStateRulesInit(rules, (CdpAggregate) (code & 0x1F), (code & 0x80) != 0, type);
	rules->delayed = (code & 0x40) != 0;
	rules->granularity = (code & 0x20) != 0;
	read_parameters(&reader, rules, rules);
	return empty ? CdpStateMake(rules) : read_state(&reader, rules);
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
	int64		parameters[CDP_MAX_PARAMETERS];
	const char *timezone;
	int			nparameters = CdpStateParameters(rules, parameters, &timezone);

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
	pq_sendint8(buf, (rules->windowed ? 1 : 0) | (rules->delayed ? 2 : 0) |
				(state->registers || state->sketched ? 4 : 0) |
				(state->chunks && state->chunks->n > 0 ? 8 : 0) |
				(rules->granularity > 0 ? 16 : 0));
	pq_sendint32(buf, rules->type);
	for (int i = 0; i < nparameters; i++)
		pq_sendint64(buf, parameters[i]);
	if (timezone)
		send_text(buf, cstring_to_text(timezone));
	if (rules->granularity > 0)
		CdpCellsSend(buf, state);
	else if (state->registers)
		pq_sendbytes(buf, (char *) state->registers, CDP_SKETCH_REGISTERS);
	else if (has_items(rules))
	{
		ItemFields	fields = item_fields(rules, state->sketched);

		pq_sendint32(buf, state->nitems);
		for (int i = 0; i < state->nitems; i++)
		{
			CdpItem    *item = &state->items[i];

			if (fields.at)
				pq_sendint64(buf, item->at);
			if (fields.begin)
				pq_sendint64(buf, item->begin);
			if (fields.end)
				pq_sendint64(buf, item->end);
			if (fields.tie)
				send_text(buf, item->tie);
			if (fields.value)
				SEND_VALUE(item->value);
			if (fields.count)
				pq_sendint64(buf, item->count);
		}
		if (state->chunks && state->chunks->n > 0)
			CdpChunksSend(buf, state);
	}
	else
	{
		if (rules->has_n)
			pq_sendint64(buf, state->n);
		if (rules->has_at)
			pq_sendint64(buf, state->at);
		if (rules->has_tie)
			send_text(buf, state->tie);
		if (rules->has_value)
			SEND_VALUE(state->value);
		if (rules->aggregate == CDP_AGG_STDDEV)
			SEND_VALUE(state->value2);
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

/* The end of a window may be never. */
TimestampTz
CdpReceiveEnd(StringInfo buf)
{
	TimestampTz result = pq_getmsgint64(buf);

	if (!IS_VALID_TIMESTAMP(result) && result != DT_NOEND)
		bad_state("A time is out of range.");
	return result;
}

/* No numbers have a square sum below zero, or one that cannot be rooted. */
static void
check_squares(const CdpState *state)
{
	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, state->value2,
										  NumericGetDatum(int64_to_numeric(0)))) < 0)
		bad_state("A sum of squares is negative.");
}

static void
receive_parameters(StringInfo buf, CdpStateRules *rules)
{
	int64		parameters[CDP_MAX_PARAMETERS] = {0};
	bool		has_timezone;
	int			n = CdpStateParametersExpected(rules, &has_timezone);

	for (int i = 0; i < n; i++)
		parameters[i] = pq_getmsgint64(buf);
	if (!CdpStateParametersSet(rules, parameters, has_timezone ?
							   text_to_cstring(CdpReceiveText(buf, TZ_STRLEN_MAX)) : NULL))
		bad_state("An option is impossible.");
}

/* Local days fit into 32 bits. */
static int64
receive_period(StringInfo buf)
{
	int64		period = pq_getmsgint64(buf);

	if (period < PG_INT32_MIN || period > PG_INT32_MAX)
		bad_state("A time is out of range.");
	return period;
}

/*
 * One item, checked by itself.
 */
static void
receive_item(StringInfo buf, CdpState *state, const ItemFields *fields,
			 FmgrInfo *receive, Oid typioparam, CdpItem *item)
{
	const CdpStateRules *rules = state->rules;
	bool		spans = rules->shape == CDP_SHAPE_SPANS && !rules->windowed;
	bool		periods = spans && !rules->has_counts;

	memset(item, 0, sizeof(CdpItem));
	item->count = periods ? 0 : 1;
	if (fields->at)
	{
		if (state->sketched)
		{
			item->at = pq_getmsgint64(buf);
			if (!CdpSketchBucketValid(item->at))
				bad_state("A bucket is impossible.");
		}
		else
			item->at = periods ? receive_period(buf) : CdpReceiveTime(buf);
	}
	item->begin = item->at;
	if (fields->begin)
		item->begin = CdpReceiveEnd(buf);
	if (fields->end)
		item->end = periods ? receive_period(buf) :
			spans ? CdpReceiveTime(buf) : CdpReceiveEnd(buf);
	if (spans ? item->end < item->at : fields->end && item->end <= item->begin)
		bad_state("A window ends before it begins.");
	if (fields->tie)
		item->tie = CdpReceiveText(buf, CDP_MAX_TIE);
	if (fields->value)
		item->value = receive_value(buf, receive, typioparam);
	if (fields->count)
	{
		item->count = pq_getmsgint64(buf);
		if (item->count <= 0)
			bad_state("A count is impossible.");
	}
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
	int			flags = pq_getmsgbyte(buf);
	Oid			type = (Oid) pq_getmsgint(buf, 4);
	FmgrInfo	receive;
	Oid			typioparam = InvalidOid;

	if (!CdpAggregateFolds(aggregate))
		bad_state("The aggregate is unknown.");
	if ((flags > 4 && flags != 9 && flags != 11 && flags != 17 && flags != 19) || flags == 2)
		bad_state("A flag is unknown.");
	CdpStateRulesInit(rules, (CdpAggregate) aggregate, (flags & 1) != 0, type);
	rules->delayed = (flags & 2) != 0;
	rules->granularity = (flags & 16) != 0;
	if (rules->type != type)
		bad_state("The aggregate takes no values.");
	receive_parameters(buf, rules);
	if (rules->has_value)
	{
		Oid			function;

		getTypeBinaryInputInfo(type, &function, &typioparam);
		fmgr_info(function, &receive);
	}

	state = CdpStateMake(rules);
	if (flags & 16)
	{
		CdpCellsReceive(buf, state);
		return state;
	}
	if (flags & 4)
	{
		if (rules->exact || rules->shape != CDP_SHAPE_VALUES ||
			(aggregate == CDP_AGG_UNIQUE_COUNT ? rules->hash == NULL :
			 aggregate != CDP_AGG_PERCENTILE))
			bad_state("A flag is unknown.");
		if (aggregate == CDP_AGG_UNIQUE_COUNT)
		{
			state->registers = (uint8 *) palloc(CDP_SKETCH_REGISTERS);
			pq_copymsgbytes(buf, (char *) state->registers, CDP_SKETCH_REGISTERS);
			if (!CdpSketchValid(state->registers))
				bad_state("A register is impossible.");
			return state;
		}
		state->sketched = true;
	}
	if (has_items(rules))
	{
		ItemFields	fields = item_fields(rules, state->sketched);
		int32		n = (int32) pq_getmsgint(buf, 4);
		int64		total = 0;

		if (n < 0 || (n == 0 && (flags & 8) == 0) || n > (buf->len - buf->cursor) / 4)
			bad_state("The number of items is impossible.");
		if (!rules->windowed && !state->sketched &&
			((rules->shape == CDP_SHAPE_LIST && n > rules->size) ||
			 (aggregate == CDP_AGG_UNIQUE_LIST && n > rules->size) ||
			 (aggregate == CDP_AGG_PERCENTILE && !rules->exact && n > CDP_EXACT_VALUES) ||
			 (aggregate == CDP_AGG_UNIQUE_COUNT && !rules->exact && rules->hash &&
			  n > CDP_EXACT_VALUES)))
			bad_state("The number of items is impossible.");
		for (int i = 0; i < n; i++)
		{
			CdpItem		item;

			if ((i & 0xFFF) == 0)
				CHECK_FOR_INTERRUPTS();
			receive_item(buf, state, &fields, &receive, typioparam, &item);
			if (CdpStateAddItem(state, &item) != i)
				bad_state("Items are not in order.");
			if (pg_add_s64_overflow(total, item.count, &total))
				bad_state("A count is impossible.");
		}
		if (flags & 8)
		{
			CdpChunksReceive(buf, state);
			if (n > 0 && state->items[0].at < state->chunks->chunks[state->chunks->n - 1].last)
				bad_state("Items are not in order.");
		}
	}
	else
	{
		state->n = rules->has_n ? pq_getmsgint64(buf) : 0;
		if (rules->has_n &&
			(state->n <= 0 ||
			 (state->n != 1 && (aggregate == CDP_AGG_EXISTS ||
								aggregate == CDP_AGG_FIRST_TIME ||
								aggregate == CDP_AGG_LAST_TIME))))
			bad_state("A count is impossible.");
		if (rules->has_at)
			state->at = CdpReceiveTime(buf);
		if (rules->has_tie)
			state->tie = CdpReceiveText(buf, CDP_MAX_TIE);
		if (rules->has_value)
		{
			state->value = receive_value(buf, &receive, typioparam);
			state->has_value = true;
		}
		if (aggregate == CDP_AGG_STDDEV)
		{
			state->value2 = receive_value(buf, &receive, typioparam);
			check_squares(state);
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
