/*-------------------------------------------------------------------------
 *
 * trait_state.c
 *	  cdp.trait_state: states of traits as SQL values, so that queries can
 *	  build, combine and finish them outside the log too.
 *
 *	  Stored form, after the varlena header: version, what it is (CdpStateCode),
 *	  type as a varint, body as in state.h.
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
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "cdp.h"
#include "traits/traitset.h"

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

struct varlena *
CdpTraitStatePack(const CdpState *state)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoSpaces(&out, VARHDRSZ);
	appendStringInfoCharMacro(&out, CDP_STATE_VERSION);
	appendStringInfoCharMacro(&out, (char) CdpStateCode(state->rules));
	CdpPutUInt(&out, state->rules->type);
	CdpStateWrite(&out, state);
	SET_VARSIZE(out.data, out.len);
	return (struct varlena *) out.data;
}

static CdpState *
unpack(struct varlena *packed)
{
	CdpReader	reader;
	uint8		version;
	uint8		code;
	Oid			type;

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
	return CdpStateReadAny(code, type, false, reader.p, reader.end - reader.p);
}

/*
 * The same when what it is must be known.
 */
CdpState *
CdpTraitStateUnpack(const CdpStateRules *rules, struct varlena *packed)
{
	CdpReader	reader = {VARDATA_ANY(packed), VARDATA_ANY(packed) + VARSIZE_ANY_EXHDR(packed)};

	if ((uint8) *CdpGetBytes(&reader, 1) != CDP_STATE_VERSION ||
		(uint8) *CdpGetBytes(&reader, 1) != CdpStateCode(rules) ||
		(Oid) CdpGetUInt(&reader) != rules->type)
		CdpStateDamaged("A state is not the one that was stored.");
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
	if (state->chunks != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("a state of a trait by itself has no chunks")));
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
	PG_RETURN_POINTER(CdpTraitStatePack(receive(&buf)));
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
	PG_RETURN_POINTER(CdpTraitStatePack(receive((StringInfo) PG_GETARG_POINTER(0))));
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
	MemoryContext context;		/* its own: options may differ from row to row */
	CdpStateRules rules;
	char	   *name;			/* of the aggregate */
	Jsonb	   *options;
	Oid			type;			/* of the argument */
	Oid			cast;			/* to numeric, InvalidOid when not needed */
	FmgrInfo	castinfo;
	Interval   *within;
	Interval   *older_than;
} BuilderCache;

static Oid
cast_to_numeric(Oid type)
{
	switch (type)
	{
		case INT2OID:
			return F_NUMERIC_INT2;
		case INT4OID:
			return F_NUMERIC_INT4;
		case INT8OID:
			return F_NUMERIC_INT8;
		case FLOAT4OID:
			return F_NUMERIC_FLOAT4;
		case FLOAT8OID:
			return F_NUMERIC_FLOAT8;
		default:
			return InvalidOid;	/* refused by CdpStateRulesInit */
	}
}

/* Options that say when a value counts. */
static Interval *
window_option(const Jsonb *options, const char *name)
{
	JsonbValue	v;
	Interval   *result;

	if (options == NULL || !JB_ROOT_IS_OBJECT(options) ||
		getKeyJsonValueFromContainer((JsonbContainer *) &options->root, name,
									 strlen(name), &v) == NULL)
		return NULL;
	result = CdpIntervalOption(name, &v);
	CdpCheckWithin(name, result);
	return result;
}

static char *
timezone_option(const Jsonb *options)
{
	JsonbValue	v;
	char	   *result;

	if (options == NULL || !JB_ROOT_IS_OBJECT(options) ||
		getKeyJsonValueFromContainer((JsonbContainer *) &options->root, "timezone",
									 strlen("timezone"), &v) == NULL)
		return pstrdup("UTC");
	if (v.type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"timezone\" must be the name of a time zone")));
	result = pnstrdup(v.val.string.val, v.val.string.len);
	CdpCheckTimezone(result);
	return result;
}

/*
 * The rules that the arguments (aggregate, value, at, options) ask for; the last
 * two may be left out.
 */
static BuilderCache *
builder_cache(FunctionCallInfo fcinfo, int aggregate_arg)
{
	static const char *const others[] = {"within", "older_than", "timezone", NULL};
	BuilderCache *cache = (BuilderCache *) fcinfo->flinfo->fn_extra;
	int			value_arg = aggregate_arg + 1;
	int			options_arg = aggregate_arg + 3;
	text	   *name;
	Jsonb	   *options = NULL;
	CdpAggregate aggregate;
	MemoryContext context;
	MemoryContext old;
	Oid			folded;
	char	   *timezone;

	if (PG_ARGISNULL(aggregate_arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the aggregate must not be NULL")));
	name = PG_GETARG_TEXT_PP(aggregate_arg);
	if (PG_NARGS() > options_arg && !PG_ARGISNULL(options_arg))
		options = PG_GETARG_JSONB_P(options_arg);
	if (cache != NULL &&
		strlen(cache->name) == VARSIZE_ANY_EXHDR(name) &&
		memcmp(cache->name, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) == 0 &&
		(options == NULL ? cache->options == NULL :
		 cache->options != NULL && VARSIZE(options) == VARSIZE(cache->options) &&
		 memcmp(options, cache->options, VARSIZE(options)) == 0))
		return cache;

	if (cache != NULL)
	{
		/* whoever keeps rules has copied them */
		fcinfo->flinfo->fn_extra = NULL;
		MemoryContextDelete(cache->context);
	}
	context = AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "cdp builder",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	cache = (BuilderCache *) palloc0(sizeof(BuilderCache));
	cache->context = context;
	cache->name = text_to_cstring(name);
	if (!CdpAggregateByName(cache->name, &aggregate) || !CdpAggregateFolds(aggregate) ||
		CDP_AGG_OF_CONSENT(aggregate))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown aggregate \"%s\"", cache->name),
				 errhint("Aggregates are %s.", CdpAggregateNames())));
	cache->type = folded = get_fn_expr_argtype(fcinfo->flinfo, value_arg);
	if (!OidIsValid(folded))
		elog(ERROR, "could not determine the type of the value");
	if (CdpAggregateValueType(aggregate) == NUMERICOID && folded != NUMERICOID)
	{
		cache->cast = cast_to_numeric(folded);
		if (OidIsValid(cache->cast))
		{
			fmgr_info_cxt(cache->cast, &cache->castinfo, context);
			folded = NUMERICOID;
		}
	}
	if (options)
	{
		cache->options = (Jsonb *) palloc(VARSIZE(options));
		memcpy(cache->options, options, VARSIZE(options));
	}
	cache->within = window_option(cache->options, "within");
	cache->older_than = window_option(cache->options, "older_than");
	timezone = timezone_option(cache->options);
	CdpStateRulesInit(&cache->rules, aggregate,
					  cache->within != NULL || cache->older_than != NULL, folded);
	cache->rules.delayed = cache->older_than != NULL;
	CdpStateRulesOptions(&cache->rules, cache->options, timezone, others);
	CdpCheckGranularity(&cache->rules, cache->within);
	fcinfo->flinfo->fn_extra = cache;
	MemoryContextSwitchTo(old);
	return cache;
}

/* Add the arguments (value, at) unless NULL says that there is nothing. */
static void
add_arguments(FunctionCallInfo fcinfo, CdpState *state, BuilderCache *cache,
			  int value_arg)
{
	const CdpStateRules *rules = &cache->rules;
	int			at_arg = value_arg + 1;
	bool		has_at = PG_NARGS() > at_arg && !PG_ARGISNULL(at_arg);
	bool		needs_at = rules->windowed || rules->has_at || rules->has_tie ||
		rules->shape == CDP_SHAPE_SPANS;
	Datum		value;
	TimestampTz at = 0;
	TimestampTz from;
	TimestampTz begin;
	TimestampTz end = DT_NOEND;

	if (PG_ARGISNULL(value_arg) || (needs_at && !has_at))
		return;
	value = PG_GETARG_DATUM(value_arg);
	if (needs_at)
	{
		at = PG_GETARG_TIMESTAMPTZ(at_arg);
		if (TIMESTAMP_NOT_FINITE(at))
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("the time of a value must be finite")));
	}
	begin = from = CdpCellStart(rules, at);
	if (cache->older_than)
		begin = CdpLocalShift(from, cache->older_than, rules->tz, rules->utc);
	if (cache->within)
		end = CdpLocalShift(from, cache->within, rules->tz, rules->utc);
	if (OidIsValid(cache->cast))
		value = FunctionCall1(&cache->castinfo, value);
	if (rules->has_value && rules->typlen == -1)
	{
		value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
		if ((rules->aggregate == CDP_AGG_LIST || rules->aggregate == CDP_AGG_UNIQUE_LIST) &&
			VARSIZE_ANY_EXHDR(DatumGetPointer(value)) > CDP_MAX_LIST_VALUE)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("value is too long for a list")));
	}
	(void) CdpStateAdd(state, value, at, begin, end, NULL);
}

/*
 * cdp.trait_state(aggregate text, value anyelement, at timestamptz, options
 * jsonb): the state of one item; NULL when it does not count.
 */
Datum
cdp_trait_state_make(PG_FUNCTION_ARGS)
{
	BuilderCache *cache = builder_cache(fcinfo, 0);
	CdpState   *state = CdpStateMake(&cache->rules);

	add_arguments(fcinfo, state, cache, 1);
	if (CdpStateIsEmpty(state))
		PG_RETURN_NULL();
	PG_RETURN_POINTER(CdpTraitStatePack(state));
}

static void
check_same_rules(const CdpStateRules *a, const CdpStateRules *b)
{
	if (CdpStateRulesSame(a, b))
		return;
	if (a->aggregate == b->aggregate && a->type == b->type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("cannot combine states of %s with different options",
						CdpAggregateName(a->aggregate))));
	else
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
	PG_RETURN_POINTER(CdpTraitStatePack(a));
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
	copy->timezone = pstrdup(rules->timezone);
	if (rules->granularity > 0)
		CdpCellRules(copy);
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

/* trait_state_agg: (internal, aggregate text, value anyelement[, at[, options]]) */
Datum
cdp_trait_state_step(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	MemoryContext old;
	BuilderCache *cache = builder_cache(fcinfo, 1);
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
 * Between the processes of one query the stored form travels, as a bytea; of a
 * state without items its options alone.
 */
Datum
cdp_trait_state_serial(PG_FUNCTION_ARGS)
{
	CdpState   *state = (CdpState *) PG_GETARG_POINTER(0);
	StringInfoData buf;

	(void) aggregate_context(fcinfo);
	pq_begintypsend(&buf);
	pq_sendint8(&buf, CdpStateCode(state->rules));
	pq_sendint8(&buf, CdpStateIsEmpty(state));
	pq_sendint32(&buf, state->rules->type);
	if (CdpStateIsEmpty(state))
		CdpStateRulesWrite(&buf, state->rules);
	else
		CdpStateWrite(&buf, state);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

Datum
cdp_trait_state_deserial(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	StringInfoData buf;
	uint8		code;
	bool		empty;
	Oid			type;

	(void) aggregate_context(fcinfo);
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	code = pq_getmsgbyte(&buf);
	empty = pq_getmsgbyte(&buf) != 0;
	type = (Oid) pq_getmsgint(&buf, 4);
	PG_RETURN_POINTER(CdpStateReadAny(code, type, empty, buf.data + buf.cursor,
									  buf.len - buf.cursor));
}

Datum
cdp_trait_state_final(PG_FUNCTION_ARGS)
{
	CdpState   *state = PG_ARGISNULL(0) ? NULL : (CdpState *) PG_GETARG_POINTER(0);

	(void) aggregate_context(fcinfo);
	if (state == NULL || CdpStateIsEmpty(state))
		PG_RETURN_NULL();
	PG_RETURN_POINTER(CdpTraitStatePack(state));
}
