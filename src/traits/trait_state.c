/*-------------------------------------------------------------------------
 *
 * trait_state.c
 *	  cdp.trait_state: states of traits as SQL values, so that queries can
 *	  build, combine and finish them outside the log too.
 *
 *	  Stored form, after the varlena header: version, aggregate (+ 128 when
 *	  windowed), type as a varint, body as in state.h.
 *
 * IDENTIFICATION
 *	  src/traits/trait_state.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "cdp.h"
#include "traits/state.h"

PG_FUNCTION_INFO_V1(cdp_trait_state_in);
PG_FUNCTION_INFO_V1(cdp_trait_state_out);
PG_FUNCTION_INFO_V1(cdp_trait_state_recv);
PG_FUNCTION_INFO_V1(cdp_trait_state_send);
PG_FUNCTION_INFO_V1(cdp_trait_state_make);
PG_FUNCTION_INFO_V1(cdp_trait_state_add);
PG_FUNCTION_INFO_V1(cdp_trait_state_eq);
PG_FUNCTION_INFO_V1(cdp_trait_state_finish);
PG_FUNCTION_INFO_V1(cdp_trait_state_step);
PG_FUNCTION_INFO_V1(cdp_trait_state_combine_step);
PG_FUNCTION_INFO_V1(cdp_trait_state_combine);
PG_FUNCTION_INFO_V1(cdp_trait_state_serial);
PG_FUNCTION_INFO_V1(cdp_trait_state_deserial);
PG_FUNCTION_INFO_V1(cdp_trait_state_final);

static struct varlena *
pack(const CdpState *state)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoSpaces(&out, VARHDRSZ);
	appendStringInfoCharMacro(&out, CDP_STATE_VERSION);
	appendStringInfoCharMacro(&out, (char) (state->rules->aggregate |
											(state->rules->windowed ? 0x80 : 0)));
	CdpPutUInt(&out, state->rules->type);
	CdpStateWrite(&out, state);
	SET_VARSIZE(out.data, out.len);
	return (struct varlena *) out.data;
}

static CdpState *
unpack(struct varlena *packed)
{
	CdpReader	reader;
	CdpStateRules *rules = (CdpStateRules *) palloc(sizeof(CdpStateRules));
	uint8		version;
	uint8		code;
	Oid			type;
	int			aggregate;

	reader.p = VARDATA_ANY(packed);
	reader.end = reader.p + VARSIZE_ANY_EXHDR(packed);
	version = (uint8) *CdpGetBytes(&reader, 1);
	if (version != CDP_STATE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("unknown version %u of a state of a trait",
						(unsigned) version),
				 errhint("Upgrade the cdp library.")));
	code = (uint8) *CdpGetBytes(&reader, 1);
	type = (Oid) CdpGetUInt(&reader);
	aggregate = code & 0x7F;
	if (aggregate < CDP_AGG_COUNT || aggregate > CDP_AGG_EXISTS)
		CdpStateDamaged("The aggregate is unknown.");
	CdpStateRulesInit(rules, (CdpAggregate) aggregate, (code & 0x80) != 0, type);
	return CdpStateRead(rules, reader.p, reader.end - reader.p);
}

static CdpState *
receive(StringInfo buf)
{
	CdpState   *state;

	if (pq_getmsgbyte(buf) != CDP_STATE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("unknown version of a state of a trait")));
	state = CdpStateReceive(buf);
	if (buf->cursor != buf->len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("bytes are left over after the state of a trait")));
	return state;
}

Datum
cdp_trait_state_in(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	CdpHexToBuffer(&buf, PG_GETARG_CSTRING(0), "cdp.trait_state");
	PG_RETURN_POINTER(pack(receive(&buf)));
}

Datum
cdp_trait_state_out(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	initStringInfo(&buf);
	pq_sendint8(&buf, CDP_STATE_VERSION);
	CdpStateSend(&buf, unpack(PG_GETARG_VARLENA_PP(0)));
	PG_RETURN_CSTRING(CdpBufferToHex(&buf));
}

Datum
cdp_trait_state_recv(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(pack(receive((StringInfo) PG_GETARG_POINTER(0))));
}

Datum
cdp_trait_state_send(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendint8(&buf, CDP_STATE_VERSION);
	CdpStateSend(&buf, unpack(PG_GETARG_VARLENA_PP(0)));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/*
 * Building from values of any type.
 */

/* What stays the same from row to row; lives in fn_extra. */
typedef struct BuilderCache
{
	CdpStateRules rules;
	Oid			type;			/* of the argument */
	Oid			cast;			/* to numeric, InvalidOid when not needed */
	FmgrInfo	castinfo;
} BuilderCache;

static BuilderCache *
builder_cache(FunctionCallInfo fcinfo, int aggregate_arg, int value_arg)
{
	BuilderCache *cache = (BuilderCache *) fcinfo->flinfo->fn_extra;
	char	   *name;
	CdpAggregate aggregate;

	if (PG_ARGISNULL(aggregate_arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the aggregate must not be NULL")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(aggregate_arg));
	if (!CdpAggregateByName(name, &aggregate) || aggregate < CDP_AGG_COUNT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown aggregate \"%s\"", name),
				 errhint("Aggregates are count, sum, avg, min, max, first, last, unique_count, most_frequent and exists.")));
	if (cache == NULL || cache->rules.aggregate != aggregate)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
		Oid			type = get_fn_expr_argtype(fcinfo->flinfo, value_arg);
		Oid			folded;

		cache = (BuilderCache *) palloc0(sizeof(BuilderCache));
		cache->type = folded = type;
		if (!OidIsValid(type))
			elog(ERROR, "could not determine the type of the value");
		if ((aggregate == CDP_AGG_SUM || aggregate == CDP_AGG_AVG) &&
			type != NUMERICOID)
		{
			switch (type)
			{
				case INT2OID:
					cache->cast = F_NUMERIC_INT2;
					break;
				case INT4OID:
					cache->cast = F_NUMERIC_INT4;
					break;
				case INT8OID:
					cache->cast = F_NUMERIC_INT8;
					break;
				case FLOAT4OID:
					cache->cast = F_NUMERIC_FLOAT4;
					break;
				case FLOAT8OID:
					cache->cast = F_NUMERIC_FLOAT8;
					break;
				default:
					break;		/* refused below */
			}
			if (OidIsValid(cache->cast))
			{
				fmgr_info_cxt(cache->cast, &cache->castinfo, fcinfo->flinfo->fn_mcxt);
				folded = NUMERICOID;
			}
		}
		CdpStateRulesInit(&cache->rules, aggregate, false, folded);
		fcinfo->flinfo->fn_extra = cache;
		MemoryContextSwitchTo(old);
	}
	return cache;
}

/* Add the arguments (value, at) unless NULL says that there is nothing. */
static void
add_arguments(FunctionCallInfo fcinfo, CdpState *state, BuilderCache *cache,
			  int value_arg)
{
	Datum		value;

	if (PG_ARGISNULL(value_arg) ||
		(cache->rules.has_tie && PG_ARGISNULL(value_arg + 1)))
		return;
	value = PG_GETARG_DATUM(value_arg);
	if (cache->rules.has_tie &&
		TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(value_arg + 1)))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("the time of a value must be finite")));
	if (OidIsValid(cache->cast))
		value = FunctionCall1(&cache->castinfo, value);
	if (cache->rules.has_value && cache->rules.typlen == -1)
		value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
	(void) CdpStateAdd(state, value,
					   cache->rules.has_tie ? PG_GETARG_TIMESTAMPTZ(value_arg + 1) : 0,
					   0, NULL);
}

/*
 * cdp.trait_state(aggregate text, value anyelement, at timestamptz): the state
 * of one item; NULL when it does not count.
 */
Datum
cdp_trait_state_make(PG_FUNCTION_ARGS)
{
	BuilderCache *cache = builder_cache(fcinfo, 0, 1);
	CdpState   *state = CdpStateMake(&cache->rules);

	add_arguments(fcinfo, state, cache, 1);
	if (CdpStateIsEmpty(state))
		PG_RETURN_NULL();
	PG_RETURN_POINTER(pack(state));
}

static void
check_same_rules(const CdpStateRules *a, const CdpStateRules *b)
{
	if (a->aggregate != b->aggregate || a->windowed != b->windowed ||
		a->type != b->type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("cannot combine a state of %s%s%s with one of %s%s%s",
						CdpAggregateName(a->aggregate),
						OidIsValid(a->type) ? " over " : "",
						OidIsValid(a->type) ? format_type_be(a->type) : "",
						CdpAggregateName(b->aggregate),
						OidIsValid(b->type) ? " over " : "",
						OidIsValid(b->type) ? format_type_be(b->type) : "")));
}

/* trait_state + trait_state */
Datum
cdp_trait_state_add(PG_FUNCTION_ARGS)
{
	CdpState   *a = unpack(PG_GETARG_VARLENA_PP(0));
	CdpState   *b = unpack(PG_GETARG_VARLENA_PP(1));

	check_same_rules(a->rules, b->rules);
	CdpStateCombine(a, b);
	PG_RETURN_POINTER(pack(a));
}

/* Equal states are equal bytes. */
Datum
cdp_trait_state_eq(PG_FUNCTION_ARGS)
{
	struct varlena *a = PG_GETARG_VARLENA_PP(0);
	struct varlena *b = PG_GETARG_VARLENA_PP(1);

	PG_RETURN_BOOL(VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
				   memcmp(VARDATA_ANY(a), VARDATA_ANY(b),
						  VARSIZE_ANY_EXHDR(a)) == 0);
}

/* cdp.finish(trait_state, at timestamptz) returns jsonb */
Datum
cdp_trait_state_finish(PG_FUNCTION_ARGS)
{
	CdpState   *state = unpack(PG_GETARG_VARLENA_PP(0));
	TimestampTz next = DT_NOEND;
	Datum		value = (Datum) 0;
	bool		has_value;

	has_value = CdpStateFinish(state->rules, &state, 1, PG_GETARG_TIMESTAMPTZ(1),
							   &value, &next);
	PG_RETURN_DATUM(CdpValueToJsonb(value, !has_value,
									CdpStateResultType(state->rules)));
}

/*
 * Aggregates.  The transition state is a CdpState whose rules live beside it.
 */

static CdpState *
make_in_context(MemoryContext context, const CdpStateRules *rules)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	CdpStateRules *copy = (CdpStateRules *) palloc(sizeof(CdpStateRules));
	CdpState   *state;

	*copy = *rules;
	state = CdpStateMake(copy);
	MemoryContextSwitchTo(old);
	return state;
}

static MemoryContext
aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate support function called in non-aggregate context");
	return context;
}

/* trait_state_agg: (internal, aggregate text, value anyelement, at) */
Datum
cdp_trait_state_step(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	MemoryContext old;
	BuilderCache *cache = builder_cache(fcinfo, 1, 2);
	CdpState   *state;

	if (PG_ARGISNULL(0))
		state = make_in_context(context, &cache->rules);
	else
	{
		state = (CdpState *) PG_GETARG_POINTER(0);
		check_same_rules(state->rules, &cache->rules);
	}
	old = MemoryContextSwitchTo(context);
	add_arguments(fcinfo, state, cache, 2);
	MemoryContextSwitchTo(old);
	PG_RETURN_POINTER(state);
}

/* combine: (internal, trait_state) */
Datum
cdp_trait_state_combine_step(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	MemoryContext old;
	CdpState   *state = PG_ARGISNULL(0) ? NULL : (CdpState *) PG_GETARG_POINTER(0);
	CdpState   *item;

	if (PG_ARGISNULL(1))
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	item = unpack(PG_GETARG_VARLENA_PP(1));
	if (state == NULL)
		state = make_in_context(context, item->rules);
	else
		check_same_rules(state->rules, item->rules);
	old = MemoryContextSwitchTo(context);
	CdpStateCombine(state, item);
	MemoryContextSwitchTo(old);
	PG_RETURN_POINTER(state);
}

/* (internal, internal) */
Datum
cdp_trait_state_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	MemoryContext old;
	CdpState   *a = PG_ARGISNULL(0) ? NULL : (CdpState *) PG_GETARG_POINTER(0);
	CdpState   *b = PG_ARGISNULL(1) ? NULL : (CdpState *) PG_GETARG_POINTER(1);

	if (b == NULL)
	{
		if (a == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(a);
	}
	if (a == NULL)
		a = make_in_context(context, b->rules);
	else
		check_same_rules(a->rules, b->rules);
	old = MemoryContextSwitchTo(context);
	CdpStateCombine(a, b);
	MemoryContextSwitchTo(old);
	PG_RETURN_POINTER(a);
}

/*
 * Between the processes of one query the stored form travels, as a bytea; an
 * empty body stands for a state without items.
 */
Datum
cdp_trait_state_serial(PG_FUNCTION_ARGS)
{
	CdpState   *state = (CdpState *) PG_GETARG_POINTER(0);
	StringInfoData buf;

	(void) aggregate_context(fcinfo);
	pq_begintypsend(&buf);
	pq_sendint8(&buf, state->rules->aggregate);
	pq_sendint8(&buf, state->rules->windowed);
	pq_sendint32(&buf, state->rules->type);
	pq_sendint8(&buf, CdpStateIsEmpty(state));
	if (!CdpStateIsEmpty(state))
		CdpStateWrite(&buf, state);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

Datum
cdp_trait_state_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	StringInfoData buf;
	CdpStateRules *rules = (CdpStateRules *) palloc(sizeof(CdpStateRules));
	CdpState   *state;
	int			aggregate;
	int			windowed;
	Oid			type;

	(void) aggregate_context(fcinfo);
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	aggregate = pq_getmsgbyte(&buf);
	windowed = pq_getmsgbyte(&buf);
	type = (Oid) pq_getmsgint(&buf, 4);
	if (aggregate < CDP_AGG_COUNT || aggregate > CDP_AGG_EXISTS)
		CdpStateDamaged("The aggregate is unknown.");
	CdpStateRulesInit(rules, (CdpAggregate) aggregate, windowed != 0, type);
	if (pq_getmsgbyte(&buf) != 0)
		state = CdpStateMake(rules);
	else
		state = CdpStateRead(rules, buf.data + buf.cursor, buf.len - buf.cursor);
	PG_RETURN_POINTER(state);
}

Datum
cdp_trait_state_final(PG_FUNCTION_ARGS)
{
	CdpState   *state = PG_ARGISNULL(0) ? NULL : (CdpState *) PG_GETARG_POINTER(0);

	(void) aggregate_context(fcinfo);
	if (state == NULL || CdpStateIsEmpty(state))
		PG_RETURN_NULL();
	PG_RETURN_POINTER(pack(state));
}
