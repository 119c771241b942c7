/*-------------------------------------------------------------------------
 *
 * changed.c
 *	  changed(trait): when has a declared trait had another value than before?
 *
 *	  The identify calls that name the trait are a hidden trait, a list of their
 *	  times and values in order.  A value that differs from that of the call
 *	  before it, by event time, is a change; so a call that arrives late falls
 *	  into its place, and may make one, or take one away.
 *
 * IDENTIFICATION
 *	  src/segments/changed.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "segments/predicate.h"
#include "traits/state.h"

/* Longer values, arrays and objects are represented by their hash. */
#define LONGEST_VALUE	200

/* What is looked for: see CdpChangedRules. */
typedef struct Rules
{
	Interval   *newer;			/* NULL: ever */
	Interval   *older;			/* NULL: until now */
	int			at_least;
	const char *from;			/* a type and a text; NULL: any value, but there was one */
	const char *to;				/* NULL: any, or none any more */
} Rules;

/*
 * A constant that values are compared with: n(ull), b(oolean), d (a number) or
 * s(tring), and its text.  NULL when it is no constant.
 */
char *
CdpChangedConstant(const Node *node)
{
	const A_Const *constant = (const A_Const *) node;

	if (!IsA(node, A_Const))
		return NULL;
	if (constant->isnull)
		return pstrdup("n");
	switch (nodeTag(&constant->val))
	{
		case T_Boolean:
			return psprintf("b%s", constant->val.boolval.boolval ? "true" : "false");
		case T_Integer:
			return psprintf("d%d", constant->val.ival.ival);
		case T_Float:
			return psprintf("d%s", constant->val.fval.fval);
		case T_String:
			return psprintf("s%s", constant->val.sval.sval);
		default:
			return NULL;
	}
}

/*
 * The rules as a text that vocabulary.c writes into the expression.
 */
char *
CdpChangedRules(const char *newer, const char *older, int at_least, const char *from,
				const char *to)
{
	return psprintf("%s;%s;%d;%d;%s%s%s", newer ? newer : "", older ? older : "", at_least,
					from ? (int) strlen(from) : 0, from ? from : "",
					to ? "=" : "", to ? to : "");
}

static void
read_rules(const text *string, Rules *rules)
{
	char	   *s = text_to_cstring(string);
	char	   *older = strchr(s, ';');
	char	   *numbers = older ? strchr(older + 1, ';') : NULL;
	char	   *rest = NULL;
	int			length = 0;
	int			used = 0;

	if (numbers != NULL &&
		sscanf(numbers + 1, "%d;%d;%n", &rules->at_least, &length, &used) == 2 &&
		used > 0 && length >= 0 && length <= strlen(numbers + 1 + used))
		rest = numbers + 1 + used;
	if (rest == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid rules of a change: \"%s\"", s)));
	*older = *numbers = '\0';
	rules->newer = CdpIntervalFromRules(s);
	rules->older = CdpIntervalFromRules(older + 1);
	rules->to = rest[length] == '=' ? pstrdup(rest + length + 1) : NULL;
	rules->from = length > 0 ? pnstrdup(rest, length) : NULL;
}

static bool
same_value(const JsonbValue *a, const JsonbValue *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvString:
			return a->val.string.len == b->val.string.len &&
				memcmp(a->val.string.val, b->val.string.val, a->val.string.len) == 0;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq,
													NumericGetDatum(a->val.numeric),
													NumericGetDatum(b->val.numeric)));
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		default:
			return compareJsonbContainers(a->val.binary.data, b->val.binary.data) == 0;
	}
}

/*
 * Is the value that constant?  A string is also the number or truth value
 * that is written like it.
 */
static bool
is_constant(const JsonbValue *value, const char *constant)
{
	const char *string = constant + 1;

	switch (value->type)
	{
		case jbvNull:
			return constant[0] == 'n';
		case jbvBool:
			return (constant[0] == 'b' || constant[0] == 's') &&
				strcmp(string, value->val.boolean ? "true" : "false") == 0;
		case jbvNumeric:
			if (constant[0] == 'd')
			{
				Datum		number = DirectFunctionCall3(numeric_in, CStringGetDatum(string),
														 ObjectIdGetDatum(InvalidOid),
														 Int32GetDatum(-1));

				return DatumGetBool(DirectFunctionCall2(numeric_eq, number,
														NumericGetDatum(value->val.numeric)));
			}
			return constant[0] == 's' &&
				strcmp(string, DatumGetCString(DirectFunctionCall1(numeric_out,
																   NumericGetDatum(value->val.numeric)))) == 0;
		case jbvString:
			return constant[0] == 's' && value->val.string.len == strlen(string) &&
				memcmp(value->val.string.val, string, value->val.string.len) == 0;
		default:
			return false;
	}
}

static TimestampTz
later(TimestampTz at, const Interval *by)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(at),
												   IntervalPGetDatum(by)));
}

/*
 * Does a change of that time count now?  Notes when that will be otherwise.
 */
static bool
counts(const Rules *rules, TimestampTz at, TimestampTz now)
{
	if (rules->older)
	{
		TimestampTz begin = later(at, rules->older);

		if (now < begin)
		{
			CdpClockNote(now, begin);
			return false;
		}
	}
	if (rules->newer)
	{
		TimestampTz end = later(at, rules->newer);

		if (now >= end)
			return false;
		CdpClockNote(now, end);
	}
	return true;
}

/*
 * One element of the list: [at, value].  False when it is none.
 */
static bool
read_item(const Jsonb *list, int i, TimestampTz *at, JsonbValue *value)
{
	JsonbValue *item = getIthJsonbValueFromContainer((JsonbContainer *) &list->root, i);
	JsonbValue *v;

	if (item == NULL || item->type != jbvBinary)
		return false;
	v = getIthJsonbValueFromContainer(item->val.binary.data, 0);
	if (v == NULL || v->type != jbvNumeric)
		return false;
	*at = DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(v->val.numeric))) -
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	v = getIthJsonbValueFromContainer(item->val.binary.data, 1);
	if (v == NULL)
		return false;
	*value = *v;
	return true;
}

PG_FUNCTION_INFO_V1(cdp_changed_is);

/*
 * cdp.changed_is(now, list, rules), and cdp.changed_at: the same in the time
 * zone of the session.
 */
Datum
cdp_changed_is(PG_FUNCTION_ARGS)
{
	TimestampTz now;
	Jsonb	   *list;
	Rules		rules = {0};
	JsonbValue	before = {.type = jbvNull};
	TimestampTz at;
	int			found = 0;
	int			n;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_BOOL(false);
	now = PG_GETARG_TIMESTAMPTZ(0);
	list = PG_GETARG_JSONB_P(1);
	read_rules(PG_GETARG_TEXT_PP(2), &rules);
	n = JB_ROOT_IS_ARRAY(list) ? JB_ROOT_COUNT(list) : 0;

	/* a full list has lost what was before its first element */
	if (n >= CDP_MAX_LIST_SIZE)
		(void) read_item(list, --n, &at, &before);
	/* it begins with its latest element */
	for (int i = n - 1; i >= 0; i--)
	{
		JsonbValue	value;

		CHECK_FOR_INTERRUPTS();
		if (!read_item(list, i, &at, &value))
			continue;
		if (at > now)
		{
			CdpClockNote(now, at);
			break;
		}
		if (!same_value(&before, &value) &&
			(rules.from ? is_constant(&before, rules.from) : before.type != jbvNull) &&
			(rules.to == NULL || is_constant(&value, rules.to)) &&
			counts(&rules, at, now))
			found++;
		before = value;
	}
	PG_RETURN_BOOL(found >= rules.at_least);
}

/*
 * The only key that differs from the wanted one in nothing but case.
 */
static bool
find_any_case(Jsonb *object, const text *key, JsonbValue *value)
{
	JsonbIterator *iterator = JsonbIteratorInit(&object->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	int			found = 0;
	int			length = VARSIZE_ANY_EXHDR(key);

	(void) JsonbIteratorNext(&iterator, &v, true);
	while ((token = JsonbIteratorNext(&iterator, &v, true)) == WJB_KEY)
	{
		bool		same = v.val.string.len == length &&
			pg_strncasecmp(v.val.string.val, VARDATA_ANY(key), length) == 0;

		(void) JsonbIteratorNext(&iterator, &v, true);
		if (same)
		{
			found++;
			*value = v;
		}
	}
	return found == 1;
}

PG_FUNCTION_INFO_V1(cdp_declared_write);

/*
 * cdp.declared_write(at, properties, key): an element of the list; NULL when
 * the call does not name the key.
 */
Datum
cdp_declared_write(PG_FUNCTION_ARGS)
{
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(0);
	Jsonb	   *properties = PG_GETARG_JSONB_P(1);
	text	   *key = PG_GETARG_TEXT_PP(2);
	JsonbParseState *state = NULL;
	JsonbValue	wanted;
	JsonbValue	value;
	JsonbValue *v;

	if (!JB_ROOT_IS_OBJECT(properties))
		PG_RETURN_NULL();
	wanted.type = jbvString;
	wanted.val.string.val = VARDATA_ANY(key);
	wanted.val.string.len = VARSIZE_ANY_EXHDR(key);
	v = findJsonbValueFromContainer(&properties->root, JB_FOBJECT, &wanted);
	if (v != NULL)
		value = *v;
	else if (!find_any_case(properties, key, &value))
		PG_RETURN_NULL();

	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	wanted.type = jbvNumeric;
	wanted.val.numeric = int64_to_numeric(at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
										  USECS_PER_DAY);
	(void) pushJsonbValue(&state, WJB_ELEM, &wanted);
	if (value.type == jbvBinary ||
		(value.type == jbvString && value.val.string.len > LONGEST_VALUE) ||
		(value.type == jbvNumeric && VARSIZE(value.val.numeric) > LONGEST_VALUE))
	{
		/* no scalar is an array */
		uint64		hash = DatumGetUInt64(DirectFunctionCall2(jsonb_hash_extended,
															  JsonbPGetDatum(JsonbValueToJsonb(&value)),
															  Int64GetDatum(0)));

		(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
		wanted.val.numeric = int64_to_numeric((int64) hash);
		(void) pushJsonbValue(&state, WJB_ELEM, &wanted);
		(void) pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	}
	else
		(void) pushJsonbValue(&state, WJB_ELEM, &value);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}
