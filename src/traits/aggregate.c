/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *	  What aggregates there are: their names, what they fold, the options
 *	  that they take, and the type of what they yield.
 *
 * IDENTIFICATION
 *	  src/traits/aggregate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "traits/state.h"
#include "traits/traitset.h"

/* What an aggregate does with values and times. */
#define FOLDS_VALUE		0x01	/* needs values and keeps them */
#define NUMBERS			0x02	/* of type numeric */
#define COMPARES		0x04	/* they must have an order */
#define TIES			0x08	/* order of entries matters */
#define KEEPS_AT		0x10	/* a time is kept */
#define KEEPS_N			0x20	/* a number of entries is kept */
#define KEEPS_COUNTS	0x40	/* each item has a count */
#define YIELDS_VALUE	0x80	/* yields a value as it was folded */

static const struct
{
	const char *name;
	CdpAggregate aggregate;
	CdpShape	shape;
	int			flags;
	Oid			result;			/* unless it yields a value */
}			aggregates[] = {
	{"declared", CDP_AGG_DECLARED, CDP_SHAPE_NONE, 0, InvalidOid},
	{"expression", CDP_AGG_EXPRESSION, CDP_SHAPE_NONE, 0, InvalidOid},
	{"count", CDP_AGG_COUNT, CDP_SHAPE_SCALAR, KEEPS_N, INT8OID},
	{"sum", CDP_AGG_SUM, CDP_SHAPE_SCALAR, FOLDS_VALUE | NUMBERS, NUMERICOID},
	{"avg", CDP_AGG_AVG, CDP_SHAPE_SCALAR, FOLDS_VALUE | NUMBERS | KEEPS_N, NUMERICOID},
	{"min", CDP_AGG_MIN, CDP_SHAPE_SCALAR, FOLDS_VALUE | COMPARES | YIELDS_VALUE, InvalidOid},
	{"max", CDP_AGG_MAX, CDP_SHAPE_SCALAR, FOLDS_VALUE | COMPARES | YIELDS_VALUE, InvalidOid},
	{"first", CDP_AGG_FIRST, CDP_SHAPE_SCALAR, FOLDS_VALUE | TIES | KEEPS_AT | YIELDS_VALUE, InvalidOid},
	{"last", CDP_AGG_LAST, CDP_SHAPE_SCALAR, FOLDS_VALUE | TIES | KEEPS_AT | YIELDS_VALUE, InvalidOid},
	{"unique_count", CDP_AGG_UNIQUE_COUNT, CDP_SHAPE_VALUES, FOLDS_VALUE | COMPARES, INT8OID},
	{"most_frequent", CDP_AGG_MOST_FREQUENT, CDP_SHAPE_VALUES, FOLDS_VALUE | COMPARES | KEEPS_COUNTS | YIELDS_VALUE, InvalidOid},
	{"exists", CDP_AGG_EXISTS, CDP_SHAPE_SCALAR, KEEPS_N, BOOLOID},
	{"stddev", CDP_AGG_STDDEV, CDP_SHAPE_SCALAR, FOLDS_VALUE | NUMBERS | KEEPS_N, NUMERICOID},
	{"least_frequent", CDP_AGG_LEAST_FREQUENT, CDP_SHAPE_VALUES, FOLDS_VALUE | COMPARES | KEEPS_COUNTS | YIELDS_VALUE, InvalidOid},
	{"first_time", CDP_AGG_FIRST_TIME, CDP_SHAPE_SCALAR, KEEPS_N | KEEPS_AT, TIMESTAMPTZOID},
	{"last_time", CDP_AGG_LAST_TIME, CDP_SHAPE_SCALAR, KEEPS_N | KEEPS_AT, TIMESTAMPTZOID},
	{"list", CDP_AGG_LIST, CDP_SHAPE_LIST, FOLDS_VALUE | TIES, JSONBOID},
	{"unique_list", CDP_AGG_UNIQUE_LIST, CDP_SHAPE_VALUES, FOLDS_VALUE | COMPARES | TIES, JSONBOID},
	{"percentile", CDP_AGG_PERCENTILE, CDP_SHAPE_VALUES, FOLDS_VALUE | NUMBERS | COMPARES | KEEPS_COUNTS, NUMERICOID},
	{"sessions", CDP_AGG_SESSIONS, CDP_SHAPE_SPANS, KEEPS_COUNTS, INT8OID},
	{"session_time", CDP_AGG_SESSION_TIME, CDP_SHAPE_SPANS, KEEPS_COUNTS, INTERVALOID},
	{"session_length", CDP_AGG_SESSION_LENGTH, CDP_SHAPE_SPANS, KEEPS_COUNTS, INTERVALOID},
	{"session_events", CDP_AGG_SESSION_EVENTS, CDP_SHAPE_SPANS, KEEPS_COUNTS, NUMERICOID},
	{"rate", CDP_AGG_RATE, CDP_SHAPE_SCALAR, KEEPS_N | KEEPS_AT, NUMERICOID},
	{"streak", CDP_AGG_STREAK, CDP_SHAPE_SPANS, 0, INT8OID},
	{"longest_streak", CDP_AGG_LONGEST_STREAK, CDP_SHAPE_SPANS, 0, INT8OID},
	{"consent", CDP_AGG_CONSENT, CDP_SHAPE_VALUES, FOLDS_VALUE | COMPARES | TIES, TEXTOID},
	{"consent_latest", CDP_AGG_CONSENT_LATEST, CDP_SHAPE_VALUES, FOLDS_VALUE | COMPARES | TIES, TEXTOID}
};

StaticAssertDecl(lengthof(aggregates) == CDP_AGG_LAST_ONE,
				 "every aggregate is described once, in order");
StaticAssertDecl(CDP_AGG_LAST_ONE < 0x20, "aggregates fit into CdpStateCode");

bool
CdpAggregateByName(const char *name, CdpAggregate *aggregate)
{
	for (int i = 0; i < lengthof(aggregates); i++)
		if (strcmp(aggregates[i].name, name) == 0)
		{
			*aggregate = aggregates[i].aggregate;
			return true;
		}
	return false;
}

const char *
CdpAggregateName(CdpAggregate aggregate)
{
	return aggregate >= 1 && aggregate <= CDP_AGG_LAST_ONE ?
		aggregates[aggregate - 1].name : "unknown";
}

/* Does it have a state?  Declared and derived traits do not. */
bool
CdpAggregateFolds(int aggregate)
{
	return aggregate >= CDP_AGG_COUNT && aggregate <= CDP_AGG_LAST_ONE;
}

static int
aggregate_flags(CdpAggregate aggregate)
{
	return aggregates[aggregate - 1].flags;
}

bool
CdpAggregateNeedsValue(CdpAggregate aggregate)
{
	return (aggregate_flags(aggregate) & FOLDS_VALUE) != 0;
}

/* The type that values must have, InvalidOid when any will do. */
Oid
CdpAggregateValueType(CdpAggregate aggregate)
{
	return aggregate_flags(aggregate) & NUMBERS ? NUMERICOID : InvalidOid;
}

/* Does it yield one of the values that were folded? */
bool
CdpAggregateYieldsValue(CdpAggregate aggregate)
{
	return (aggregate_flags(aggregate) & YIELDS_VALUE) != 0;
}

/* For hints: all names of aggregates. */
char *
CdpAggregateNames(void)
{
	StringInfoData out;
	int			n = CDP_AGG_CONSENT - 1;	/* nobody asks for those of consent */

	initStringInfo(&out);
	for (int i = CDP_AGG_COUNT - 1; i < n; i++)
		appendStringInfo(&out, "%s%s", aggregates[i].name,
						 i < n - 2 ? ", " : i == n - 2 ? " and " : "");
	return out.data;
}

/*
 * Fill in the rules, options as by default; refuses types that cannot be kept
 * or compared.  type is that of the values (ignored by those that keep none).
 */
void
CdpStateRulesInit(CdpStateRules *rules, CdpAggregate aggregate, bool windowed,
				  Oid type)
{
	int			flags;

	if (!CdpAggregateFolds(aggregate))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("aggregate %s has no state",
						CdpAggregateName(aggregate))));
	flags = aggregate_flags(aggregate);
	memset(rules, 0, sizeof(CdpStateRules));
	rules->aggregate = aggregate;
	rules->shape = aggregates[aggregate - 1].shape;
	rules->windowed = windowed;
	rules->has_n = (flags & KEEPS_N) != 0;
	rules->has_at = (flags & KEEPS_AT) != 0;
	rules->has_tie = (flags & TIES) != 0;
	rules->has_counts = (flags & KEEPS_COUNTS) != 0;
	rules->keyed = CDP_AGG_OF_CONSENT(aggregate);
	rules->size = CDP_LIST_SIZE;
	rules->ppm = 500000;
	rules->gap = rules->shape == CDP_SHAPE_SPANS && !rules->has_counts ? 1 :
		CDP_SESSION_GAP;
	rules->timezone = "UTC";
	rules->utc = true;

	if (!(flags & FOLDS_VALUE))
		return;
	if (!OidIsValid(type) ||
		!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("aggregate %s cannot fold values of an unknown type",
						CdpAggregateName(aggregate))));
	if ((flags & NUMBERS) && type != NUMERICOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("aggregate %s folds values of type numeric, not %s",
						CdpAggregateName(aggregate),
						format_type_be(type))));

	rules->has_value = true;
	rules->type = type;
	if (type >= FirstNormalObjectId ||
		!(get_typtype(type) == TYPTYPE_BASE ||
		  get_typtype(type) == TYPTYPE_RANGE ||
		  get_typtype(type) == TYPTYPE_MULTIRANGE) ||
		get_typlen(type) == -2)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("aggregate %s cannot fold values of type %s",
						CdpAggregateName(aggregate), format_type_be(type)),
				 errhint("Traits have built-in types; cast the value to one.")));
	get_typlenbyval(type, &rules->typlen, &rules->typbyval);
	if (flags & (COMPARES | TIES))
	{
		TypeCacheEntry *entry;

		entry = lookup_type_cache(type, TYPECACHE_CMP_PROC_FINFO |
								  TYPECACHE_HASH_EXTENDED_PROC_FINFO);
		if (OidIsValid(entry->cmp_proc_finfo.fn_oid))
			rules->cmp = &entry->cmp_proc_finfo;
		else if (flags & COMPARES)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("aggregate %s cannot fold values of type %s",
							CdpAggregateName(aggregate), format_type_be(type)),
					 errdetail("The type has no order.")));
		if (OidIsValid(entry->hash_extended_proc_finfo.fn_oid))
			rules->hash = &entry->hash_extended_proc_finfo;
	}
}

/*
 * The same without a window: what its items add up to.  A window knows all of
 * its items, so nothing is estimated.
 */
void
CdpStateRulesPlain(CdpStateRules *plain, const CdpStateRules *rules)
{
	*plain = *rules;
	plain->windowed = false;
	plain->delayed = false;
	plain->exact = true;
}

/* Type of what CdpStateFinish yields. */
Oid
CdpStateResultType(const CdpStateRules *rules)
{
	return CdpAggregateYieldsValue(rules->aggregate) ? rules->type :
		aggregates[rules->aggregate - 1].result;
}

/* Options that are the aggregate's own. */
static int
own_parameters(const CdpStateRules *rules, int64 *parameters,
			   const char **timezone)
{
	*timezone = NULL;
	switch (rules->aggregate)
	{
		case CDP_AGG_LIST:
		case CDP_AGG_UNIQUE_LIST:
			parameters[0] = rules->size;
			return 1;
		case CDP_AGG_UNIQUE_COUNT:
			parameters[0] = rules->exact;
			return 1;
		case CDP_AGG_STDDEV:
			parameters[0] = rules->population;
			return 1;
		case CDP_AGG_PERCENTILE:
			parameters[0] = rules->ppm;
			parameters[1] = rules->exact;
			return 2;
		case CDP_AGG_SESSIONS:
		case CDP_AGG_SESSION_TIME:
		case CDP_AGG_SESSION_LENGTH:
		case CDP_AGG_SESSION_EVENTS:
			parameters[0] = rules->gap;
			return 1;
		case CDP_AGG_RATE:
			*timezone = rules->timezone;
			return 0;
		case CDP_AGG_STREAK:
		case CDP_AGG_LONGEST_STREAK:
			*timezone = rules->timezone;
			parameters[0] = rules->weeks;
			return 1;
		default:
			return 0;
	}
}

/*
 * The options of a state as numbers, for storing and comparing: returns how
 * many.  *timezone is set when it matters.
 */
int
CdpStateParameters(const CdpStateRules *rules, int64 *parameters,
				   const char **timezone)
{
	int			n = own_parameters(rules, parameters, timezone);

	if (rules->granularity > 0)
		parameters[n++] = rules->granularity;
	return n;
}

/* How many parameters an aggregate has, and whether a time zone follows. */
int
CdpStateParametersExpected(const CdpStateRules *rules, bool *has_timezone)
{
	int64		parameters[CDP_MAX_PARAMETERS];
	const char *timezone;
	int			n = CdpStateParameters(rules, parameters, &timezone);

	*has_timezone = timezone != NULL;
	return n;
}

static bool
set_timezone(CdpStateRules *rules, const char *timezone)
{
	rules->timezone = timezone;
	rules->utc = pg_strcasecmp(timezone, "UTC") == 0 ||
		pg_strcasecmp(timezone, "GMT") == 0;
	rules->tz = strlen(timezone) <= TZ_STRLEN_MAX ? pg_tzset(timezone) : NULL;
	return rules->tz != NULL;
}

/*
 * Take over stored parameters, whose number is right; false when they cannot
 * be.  timezone must live as long as the rules, and so must the current context
 * when there is a granularity (any, until then).
 */
bool
CdpStateParametersSet(CdpStateRules *rules, const int64 *parameters,
					  const char *timezone)
{
	switch (rules->aggregate)
	{
		case CDP_AGG_LIST:
		case CDP_AGG_UNIQUE_LIST:
			if (parameters[0] < 1 || parameters[0] > CDP_MAX_LIST_SIZE)
				return false;
			rules->size = (int32) parameters[0];
			break;
		case CDP_AGG_UNIQUE_COUNT:
			if (parameters[0] < 0 || parameters[0] > 1)
				return false;
			rules->exact = parameters[0] != 0;
			break;
		case CDP_AGG_STDDEV:
			if (parameters[0] < 0 || parameters[0] > 1)
				return false;
			rules->population = parameters[0] != 0;
			break;
		case CDP_AGG_PERCENTILE:
			if (parameters[0] < 0 || parameters[0] > 1000000 ||
				parameters[1] < 0 || parameters[1] > 1)
				return false;
			rules->ppm = (int32) parameters[0];
			rules->exact = parameters[1] != 0;
			break;
		case CDP_AGG_SESSIONS:
		case CDP_AGG_SESSION_TIME:
		case CDP_AGG_SESSION_LENGTH:
		case CDP_AGG_SESSION_EVENTS:
			if (parameters[0] < 1 || parameters[0] > CDP_MAX_SESSION_GAP)
				return false;
			rules->gap = parameters[0];
			break;
		case CDP_AGG_STREAK:
		case CDP_AGG_LONGEST_STREAK:
			if (parameters[0] < 0 || parameters[0] > 1)
				return false;
			rules->weeks = parameters[0] != 0;
			break;
		default:
			break;
	}
	if (timezone != NULL && !set_timezone(rules, timezone))
		return false;
	if (rules->granularity > 0)
	{
		int64		unused[CDP_MAX_PARAMETERS];
		int64		granularity = parameters[own_parameters(rules, unused, &timezone)];

		if (granularity < 1 || granularity > CDP_MAX_GRANULARITY)
			return false;
		rules->granularity = granularity;
		CdpCellRules(rules);
	}
	return true;
}

/* Do states of these rules add up? */
bool
CdpStateRulesSame(const CdpStateRules *a, const CdpStateRules *b)
{
	int64		pa[CDP_MAX_PARAMETERS];
	int64		pb[CDP_MAX_PARAMETERS];
	const char *za;
	const char *zb;
	int			n;

	if (a->aggregate != b->aggregate || a->windowed != b->windowed ||
		a->delayed != b->delayed || a->type != b->type ||
		(a->granularity > 0) != (b->granularity > 0))
		return false;
	n = CdpStateParameters(a, pa, &za);
	(void) CdpStateParameters(b, pb, &zb);
	for (int i = 0; i < n; i++)
		if (pa[i] != pb[i])
			return false;
	return za == NULL || strcmp(za, zb) == 0;
}

/*
 * Options, as written in a definition.
 */

static void
bad_option(const char *name, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" must be %s", name, what)));
}

static bool
boolean_option(const char *name, const JsonbValue *v)
{
	if (v->type != jbvBool)
		bad_option(name, "true or false");
	return v->val.boolean;
}

/* A number times "factor" as an integer between min and max. */
static int64
number_option(const char *name, const JsonbValue *v, int64 factor, int64 min,
			  int64 max, const char *what)
{
	Numeric		scaled;
	Numeric		whole;

	if (v->type != jbvNumeric)
		bad_option(name, what);
	scaled = numeric_mul_opt_error(v->val.numeric, int64_to_numeric(factor), NULL);
	whole = DatumGetNumeric(DirectFunctionCall2(numeric_trunc,
												NumericGetDatum(scaled),
												Int32GetDatum(0)));
	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(scaled),
										  NumericGetDatum(whole))) != 0 ||
		DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(whole),
										  NumericGetDatum(int64_to_numeric(min)))) < 0 ||
		DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(whole),
										  NumericGetDatum(int64_to_numeric(max)))) > 0)
		bad_option(name, what);
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(whole)));
}

static char *
text_option(const char *name, const JsonbValue *v, const char *what)
{
	if (v->type != jbvString)
		bad_option(name, what);
	return pnstrdup(v->val.string.val, v->val.string.len);
}

/* An interval, read in a way that depends on no setting. */
Interval *
CdpIntervalOption(const char *name, const JsonbValue *v)
{
	char	   *text = text_option(name, v, "an interval such as \"30 minutes\"");
	int			nest_level = CdpPinSettings(NULL);
	Interval   *result;

	result = DatumGetIntervalP(DirectFunctionCall3(interval_in,
												   CStringGetDatum(text),
												   ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1)));
	CdpUnpinSettings(nest_level);
	return result;
}

/* An interval as a span of time of at most 366 days. */
static int64
span_option(const char *name, const JsonbValue *v, int64 max)
{
	Interval   *span = CdpIntervalOption(name, v);

	if (span->month != 0 || span->day < 0 || span->day > 366 ||
		span->time < 0 || span->time > max ||
		span->day * USECS_PER_DAY + span->time < 1 ||
		span->day * USECS_PER_DAY + span->time > max)
		bad_option(name, "a positive interval of at most 366 days, without months");
	return span->day * USECS_PER_DAY + span->time;
}

/*
 * Take the options that the aggregate knows; returns false for one that it
 * does not.
 */
static bool
take_option(CdpStateRules *rules, const char *name, const JsonbValue *v)
{
	if (rules->windowed && strcmp(name, "granularity") == 0)
	{
		rules->granularity = span_option(name, v, CDP_MAX_GRANULARITY);
		return true;
	}
	switch (rules->aggregate)
	{
		case CDP_AGG_LIST:
		case CDP_AGG_UNIQUE_LIST:
			if (strcmp(name, "size") != 0)
				return false;
			rules->size = (int32) number_option(name, v, 1, 1, CDP_MAX_LIST_SIZE,
												"a whole number from 1 to " CppAsString2(CDP_MAX_LIST_SIZE));
			return true;
		case CDP_AGG_CONSENT:
		case CDP_AGG_CONSENT_LATEST:
			/* about what is folded, not about states */
			return strcmp(name, "names") == 0 || strcmp(name, "valid_for") == 0;
		case CDP_AGG_UNIQUE_COUNT:
			if (strcmp(name, "exact") != 0)
				return false;
			rules->exact = boolean_option(name, v);
			return true;
		case CDP_AGG_STDDEV:
			if (strcmp(name, "population") != 0)
				return false;
			rules->population = boolean_option(name, v);
			return true;
		case CDP_AGG_PERCENTILE:
			if (strcmp(name, "exact") == 0)
				rules->exact = boolean_option(name, v);
			else if (strcmp(name, "p") == 0)
				rules->ppm = (int32) number_option(name, v, 1000000, 0, 1000000,
												   "a number from 0 to 1 with at most six decimals");
			else
				return false;
			return true;
		case CDP_AGG_SESSIONS:
		case CDP_AGG_SESSION_TIME:
		case CDP_AGG_SESSION_LENGTH:
		case CDP_AGG_SESSION_EVENTS:
			if (strcmp(name, "gap") != 0)
				return false;
			rules->gap = span_option(name, v, CDP_MAX_SESSION_GAP);
			return true;
		case CDP_AGG_STREAK:
		case CDP_AGG_LONGEST_STREAK:
			{
				char	   *unit;

				if (strcmp(name, "unit") != 0)
					return false;
				unit = text_option(name, v, "\"day\" or \"week\"");
				rules->weeks = strcmp(unit, "week") == 0;
				if (!rules->weeks && strcmp(unit, "day") != 0)
					bad_option(name, "\"day\" or \"week\"");
				return true;
			}
		default:
			return false;
	}
}

/*
 * What take_option() knows of an aggregate, for a hint.
 */
static const char *
options_of(const CdpStateRules *rules)
{
	switch (rules->aggregate)
	{
		case CDP_AGG_LIST:
		case CDP_AGG_UNIQUE_LIST:
			return "\"size\"";
		case CDP_AGG_UNIQUE_COUNT:
			return "\"exact\"";
		case CDP_AGG_STDDEV:
			return "\"population\"";
		case CDP_AGG_PERCENTILE:
			return "\"p\" and \"exact\"";
		case CDP_AGG_SESSIONS:
		case CDP_AGG_SESSION_TIME:
		case CDP_AGG_SESSION_LENGTH:
		case CDP_AGG_SESSION_EVENTS:
			return "\"gap\"";
		case CDP_AGG_STREAK:
		case CDP_AGG_LONGEST_STREAK:
			return "\"unit\"";
		default:
			return NULL;
	}
}

/*
 * Read the options of a definition into its rules.  Names in "others" (a list
 * that ends with NULL) are somebody else's; any other is an error.  timezone
 * must live as long as the rules.
 */
void
CdpStateRulesOptions(CdpStateRules *rules, const Jsonb *options,
					 const char *timezone, const char *const *others)
{
	JsonbIterator *it;
	JsonbValue	v;

	if (!set_timezone(rules, timezone))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" is not known", timezone)));
	if (options == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"options\" must be a JSON object")));
	it = JsonbIteratorInit((JsonbContainer *) &options->root);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_KEY)
	{
		char	   *name = pnstrdup(v.val.string.val, v.val.string.len);
		bool		known = false;

		(void) JsonbIteratorNext(&it, &v, true);
		for (int i = 0; others[i] != NULL && !known; i++)
			known = strcmp(others[i], name) == 0;
		if (!known && !take_option(rules, name, &v))
			ereport(ERROR,
					strcmp(name, "granularity") == 0 ?
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"granularity\" is one of windows: it needs \"within\" or \"older_than\"")) :
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("aggregate %s takes no option \"%s\"",
							CdpAggregateName(rules->aggregate), name),
					 options_of(rules) != NULL ? errhint("It takes %s.", options_of(rules)) : 0));
		pfree(name);
	}
	if (rules->granularity > 0)
		CdpCellRules(rules);
}

/* A window must be longer than the cells that it is made of. */
void
CdpCheckGranularity(const CdpStateRules *rules, const Interval *within)
{
	Interval   *granularity;

	if (rules->granularity == 0 || within == NULL)
		return;
	granularity = (Interval *) palloc0(sizeof(Interval));
	granularity->time = rules->granularity;
	if (DatumGetBool(DirectFunctionCall2(interval_ge, IntervalPGetDatum(granularity),
										 IntervalPGetDatum(within))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"granularity\" must be shorter than \"within\"")));
}
