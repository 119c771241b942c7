/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  Predicates that compare with the instant of evaluation.
 *
 *	  A comparison with now() changes at instants that can be told in advance.
 *	  So it is brought into the form
 *
 *		now() <operator> time
 *
 *	  where the time depends on traits only: an interval that is added to or
 *	  subtracted from now() moves to the other side.  The comparison itself is
 *	  done by a function that also notes when its result will change if nothing
 *	  else does; the earliest of the instants that an evaluation has noted is
 *	  the profile's timer.  A comparison that has not been looked at, because
 *	  another term has decided already, needs no timer: when that term changes
 *	  the profile is evaluated again.
 *
 *	  That moving over matters for months and for days in time zones with
 *	  summer time: "t > now() - '1 month'" means "t + '1 month' > now()", which
 *	  holds until one instant and not after it.
 *
 *	  current_date and date_trunc(unit, now()) may be used in any way; where
 *	  they are not compared like that, the result may change at the beginning
 *	  of every day or unit, and the timer is set to the next one.
 *
 * IDENTIFICATION
 *	  src/segments/clock.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "segments/predicate.h"

typedef enum ClockOperator
{
	CLOCK_LT,
	CLOCK_LE,
	CLOCK_EQ,
	CLOCK_NE,
	CLOCK_GE,
	CLOCK_GT
} ClockOperator;

static const struct
{
	const char *name;
	ClockOperator operator;
	ClockOperator flipped;
}			operators[] = {
	{"<", CLOCK_LT, CLOCK_GT},
	{"<=", CLOCK_LE, CLOCK_GE},
	{"=", CLOCK_EQ, CLOCK_EQ},
	{"<>", CLOCK_NE, CLOCK_NE},
	{">=", CLOCK_GE, CLOCK_LE},
	{">", CLOCK_GT, CLOCK_LT},
};

static const struct
{
	const char *name;
	Interval	length;
}			units[] = {
	{"hour", {USECS_PER_HOUR, 0, 0}},
	{"day", {0, 1, 0}},
	{"week", {0, 7, 0}},
	{"month", {0, 0, 1}},
	{"quarter", {0, 0, 3}},
	{"year", {0, 0, 12}},
};

/* Earliest instant noted since CdpClockReset, and since CdpClockWatch. */
static TimestampTz noted = DT_NOEND;
static TimestampTz watched = DT_NOEND;

void
CdpClockReset(void)
{
	noted = DT_NOEND;
}

TimestampTz
CdpClockNoted(void)
{
	return noted;
}

TimestampTz
CdpClockWatch(TimestampTz since)
{
	TimestampTz was = watched;

	watched = since;
	return was;
}

/* ---- at run time ---- */

void
CdpClockNote(TimestampTz now, TimestampTz at)
{
	if (at <= now || !IS_VALID_TIMESTAMP(at))
		return;
	noted = Min(noted, at);
	watched = Min(watched, at);
}

static bool
compare(TimestampTz now, ClockOperator operator, TimestampTz at)
{
	switch (operator)
	{
		case CLOCK_LT:
			return now < at;
		case CLOCK_LE:
			return now <= at;
		case CLOCK_EQ:
			return now == at;
		case CLOCK_NE:
			return now != at;
		case CLOCK_GE:
			return now >= at;
		default:
			return now > at;
	}
}

/*
 * The comparison changes when the clock reaches "at", or passes it, or both.
 */
static void
note_change(TimestampTz now, ClockOperator operator, TimestampTz reached, TimestampTz passed)
{
	if (operator != CLOCK_LE && operator != CLOCK_GT)
		CdpClockNote(now, reached);
	if (operator != CLOCK_LT && operator != CLOCK_GE)
		CdpClockNote(now, passed);
}

PG_FUNCTION_INFO_V1(cdp_clock_is);

/*
 * cdp.clock_is(now, operator, at)
 */
Datum
cdp_clock_is(PG_FUNCTION_ARGS)
{
	TimestampTz now = PG_GETARG_TIMESTAMPTZ(0);
	int32		operator = PG_GETARG_INT32(1);
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(2);

	if (!TIMESTAMP_NOT_FINITE(at))
		note_change(now, (ClockOperator) operator, at, at + 1);
	PG_RETURN_BOOL(compare(now, (ClockOperator) operator, at));
}

static const Interval *
unit_length(const char *name)
{
	for (int i = 0; i < lengthof(units); i++)
	{
		if (pg_strcasecmp(units[i].name, name) == 0)
			return &units[i].length;
	}
	return NULL;
}

static const Interval *
unit_argument(const text *unit)
{
	const Interval *length = unit_length(text_to_cstring(unit));

	if (length == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unit \"%s\" not recognized", text_to_cstring(unit))));
	return length;
}

/* In the session's time zone, which is pinned to the definition's. */
static TimestampTz
begin_of_unit(const text *unit, TimestampTz at)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_trunc,
												   PointerGetDatum(unit),
												   TimestampTzGetDatum(at)));
}

static TimestampTz
next_unit(TimestampTz begin, const Interval *length)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(begin),
												   IntervalPGetDatum(length)));
}

PG_FUNCTION_INFO_V1(cdp_clock_unit_is);

/*
 * cdp.clock_is(now, operator, at, unit): the begin of the unit in which now is.
 */
Datum
cdp_clock_unit_is(PG_FUNCTION_ARGS)
{
	TimestampTz now = PG_GETARG_TIMESTAMPTZ(0);
	int32		operator = PG_GETARG_INT32(1);
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(2);
	text	   *unit = PG_GETARG_TEXT_PP(3);
	const Interval *length = unit_argument(unit);

	if (!TIMESTAMP_NOT_FINITE(at))
	{
		TimestampTz begin = begin_of_unit(unit, at);
		TimestampTz next = next_unit(begin, length);

		note_change(now, (ClockOperator) operator, begin == at ? at : next, next);
	}
	PG_RETURN_BOOL(compare(begin_of_unit(unit, now), (ClockOperator) operator, at));
}

PG_FUNCTION_INFO_V1(cdp_clock_at);

/*
 * cdp.clock_at(now, unit): the begin of the unit in which now is.
 */
Datum
cdp_clock_at(PG_FUNCTION_ARGS)
{
	TimestampTz now = PG_GETARG_TIMESTAMPTZ(0);
	text	   *unit = PG_GETARG_TEXT_PP(1);
	const Interval *length = unit_argument(unit);
	TimestampTz begin = begin_of_unit(unit, now);

	CdpClockNote(now, next_unit(begin, length));
	PG_RETURN_TIMESTAMPTZ(begin);
}

/* ---- at compile time ---- */

typedef struct RewriteContext
{
	const char *text;
	bool		used;
} RewriteContext;

static bool
is_clock(const Node *node)
{
	return IsA(node, Var) && ((const Var *) node)->varno == OUTER_VAR &&
		((const Var *) node)->varattno == CDP_ENV_NOW;
}

static bool
contains_clock(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (is_clock(node))
		return true;
	return expression_tree_walker(node, contains_clock, context);
}

static Node *
call1(Oid function, Oid type, Node *a)
{
	return (Node *) makeFuncExpr(function, type, list_make1(a), InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

static Node *
call2(Oid function, Oid type, Node *a, Node *b)
{
	return (Node *) makeFuncExpr(function, type, list_make2(a, b), InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

/*
 * a + b or a - b, where b is an interval or a number of days; NULL when that
 * is not possible.
 */
static Node *
shift(Node *a, Node *b, bool add)
{
	Oid			by = exprType(b);

	switch (exprType(a))
	{
		case TIMESTAMPTZOID:
			if (by == INTERVALOID)
				return call2(add ? F_TIMESTAMPTZ_PL_INTERVAL : F_TIMESTAMPTZ_MI_INTERVAL,
							 TIMESTAMPTZOID, a, b);
			break;
		case TIMESTAMPOID:
			if (by == INTERVALOID)
				return call2(add ? F_TIMESTAMP_PL_INTERVAL : F_TIMESTAMP_MI_INTERVAL,
							 TIMESTAMPOID, a, b);
			break;
		case DATEOID:
			if (by == INTERVALOID)
				return call2(add ? F_DATE_PL_INTERVAL : F_DATE_MI_INTERVAL,
							 TIMESTAMPOID, a, b);
			if (by == INT4OID)
				return call2(add ? F_DATE_PLI : F_DATE_MII, DATEOID, a, b);
			break;
		default:
			break;
	}
	return NULL;
}

static Node *
to_timestamptz(Node *node)
{
	switch (exprType(node))
	{
		case TIMESTAMPTZOID:
			return node;
		case TIMESTAMPOID:
			return call1(F_TIMESTAMPTZ_TIMESTAMP, TIMESTAMPTZOID, node);
		case DATEOID:
			return call1(F_TIMESTAMPTZ_DATE, TIMESTAMPTZOID, node);
		default:
			return NULL;
	}
}

/*
 * The unit that date_trunc(unit, now()) or now()::date rounds to; NULL for
 * what is neither.
 */
static const char *
rounding_unit(const Node *node)
{
	const FuncExpr *func = (const FuncExpr *) node;
	const Const *unit;

	if (!IsA(node, FuncExpr))
		return NULL;
	if (func->funcid == F_DATE_TIMESTAMPTZ && is_clock(linitial(func->args)))
		return "day";
	if (func->funcid != F_DATE_TRUNC_TEXT_TIMESTAMPTZ || !is_clock(lsecond(func->args)))
		return NULL;
	unit = (const Const *) linitial(func->args);
	if (!IsA(unit, Const) || unit->constisnull ||
		unit_length(TextDatumGetCString(unit->constvalue)) == NULL)
		return NULL;
	return TextDatumGetCString(unit->constvalue);
}

static Node *
text_const(const char *string)
{
	return (Node *) makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
							  CStringGetTextDatum(string), false, false);
}

static Oid
clock_function(const char *name, int nargs)
{
	Oid			clock_is[] = {TIMESTAMPTZOID, INT4OID, TIMESTAMPTZOID, TEXTOID};
	Oid			clock_at[] = {TIMESTAMPTZOID, TEXTOID};

	return LookupFuncName(list_make2(makeString("cdp"), makeString(pstrdup(name))), nargs,
						  strcmp(name, "clock_at") == 0 ? clock_at : clock_is, false);
}

/*
 * From "clock <operator> other", where the clock is somewhere inside the left
 * side and nowhere in the right one, to "now() <operator> time"; NULL when the
 * left side is none that can be solved.
 */
static Node *
solve(Node *clock, ClockOperator operator, ClockOperator flipped, Node *other)
{
	const char *unit = NULL;
	bool		shifted = false;	/* an interval was brought to the other side */
	Node	   *now;
	FuncExpr   *result;

	while (!is_clock(clock))
	{
		unit = rounding_unit(clock);
		if (unit != NULL)
			break;
		if (IsA(clock, FuncExpr))
		{
			Oid			function = ((FuncExpr *) clock)->funcid;

			if (function != F_TIMESTAMP_TIMESTAMPTZ && function != F_TIMESTAMPTZ_TIMESTAMP &&
				function != F_TIMESTAMPTZ_DATE && function != F_TIMESTAMP_DATE)
				return NULL;
			clock = linitial(((FuncExpr *) clock)->args);
		}
		else if (IsA(clock, OpExpr) && list_length(((OpExpr *) clock)->args) == 2)
		{
			Node	   *a = linitial(((OpExpr *) clock)->args);
			Node	   *b = lsecond(((OpExpr *) clock)->args);
			bool		left = contains_clock(a, NULL);

			if (left && contains_clock(b, NULL))
				return NULL;
			switch (get_opcode(((OpExpr *) clock)->opno))
			{
				case F_TIMESTAMPTZ_MI_INTERVAL:
				case F_TIMESTAMP_MI_INTERVAL:
				case F_DATE_MI_INTERVAL:
				case F_DATE_MII:
					if (!left)
						return NULL;
					shifted |= exprType(b) == INTERVALOID;
					other = shift(other, b, true);
					clock = a;
					break;
				case F_TIMESTAMPTZ_PL_INTERVAL:
				case F_TIMESTAMP_PL_INTERVAL:
				case F_DATE_PL_INTERVAL:
				case F_DATE_PLI:
					if (!left)
						return NULL;
					shifted |= exprType(b) == INTERVALOID;
					other = shift(other, b, false);
					clock = a;
					break;
				case F_TIMESTAMPTZ_MI:
				case F_TIMESTAMP_MI:
				case F_DATE_MI:
					/* now() - b < other: now() < b + other */
					shifted |= exprType(other) == INTERVALOID;
					other = left ? shift(b, other, true) : shift(a, other, false);
					clock = left ? a : b;
					if (!left)
					{
						ClockOperator swap = operator;

						operator = flipped;
						flipped = swap;
					}
					break;
				default:
					return NULL;
			}
			if (other == NULL)
				return NULL;
		}
		else
			return NULL;
	}
	/* a day less a month is evaluated as it stands, once a day */
	if (unit != NULL && shifted)
		return NULL;
	now = is_clock(clock) ? clock :
		(Node *) llast(((FuncExpr *) clock)->args);
	other = to_timestamptz(other);
	if (other == NULL)
		return NULL;
	result = (FuncExpr *) call2(clock_function("clock_is", unit ? 4 : 3), BOOLOID, now,
								(Node *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32),
												   Int32GetDatum(operator), false, true));
	result->args = lappend(result->args, other);
	if (unit != NULL)
	{
		result->args = lappend(result->args, text_const(unit));
		result->inputcollid = DEFAULT_COLLATION_OID;
	}
	return (Node *) result;
}

static Node *
rewrite_comparison(OpExpr *op)
{
	Node	   *left = linitial(op->args);
	Node	   *right = lsecond(op->args);
	bool		on_left;
	char	   *name;

	if (op->opresulttype != BOOLOID)
		return NULL;
	on_left = contains_clock(left, NULL);
	if (on_left == contains_clock(right, NULL))
		return NULL;
	name = get_opname(op->opno);
	for (int i = 0; i < lengthof(operators); i++)
	{
		if (strcmp(operators[i].name, name) != 0)
			continue;
		if (on_left)
			return solve(left, operators[i].operator, operators[i].flipped, right);
		return solve(right, operators[i].flipped, operators[i].operator, left);
	}
	return NULL;
}

/*
 * For what did_in_order() and changed() have become, the function that says
 * that it depends on the time zone; NULL for others.
 */
static char *
function_of_list(const Node *node)
{
	const FuncExpr *func = (const FuncExpr *) node;
	const char *name;

	if (!IsA(node, FuncExpr) || list_length(func->args) != 3 ||
		!is_clock(linitial(func->args)) ||
		get_func_namespace(func->funcid) != CdpSchemaOid())
		return NULL;
	name = get_func_name(func->funcid);
	return strcmp(name, "sequence_is") == 0 ? "sequence_at" :
		strcmp(name, "changed_is") == 0 ? "changed_at" : NULL;
}

static Node *
rewrite_mutator(Node *node, void *arg)
{
	RewriteContext *context = (RewriteContext *) arg;
	const char *unit;
	char	   *of_list;

	if (node == NULL)
		return NULL;
	check_stack_depth();
	if (IsA(node, OpExpr) && list_length(((OpExpr *) node)->args) == 2)
	{
		Node	   *solved = rewrite_comparison((OpExpr *) node);

		if (solved != NULL)
		{
			context->used = true;
			return solved;
		}
	}
	of_list = function_of_list(node);
	if (of_list != NULL)
	{
		FuncExpr   *call = (FuncExpr *) copyObject(node);
		Oid			argtypes[] = {TIMESTAMPTZOID, JSONBOID, TEXTOID};

		call->funcid = LookupFuncName(list_make2(makeString("cdp"), makeString(of_list)),
									  3, argtypes, false);
		context->used = true;
		return (Node *) call;
	}
	unit = rounding_unit(node);
	if (unit != NULL)
	{
		Node	   *now = llast(((FuncExpr *) node)->args);
		FuncExpr   *begin = (FuncExpr *) call2(clock_function("clock_at", 2), TIMESTAMPTZOID,
											   now, text_const(unit));

		context->used = true;
		begin->inputcollid = DEFAULT_COLLATION_OID;
		if (((FuncExpr *) node)->funcid == F_DATE_TIMESTAMPTZ)
			return call1(F_DATE_TIMESTAMPTZ, DATEOID, (Node *) begin);
		return (Node *) begin;
	}
	if (is_clock(node))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the current time can only be compared with a time"),
				 errdetail("An interval may be added to it or subtracted from it. Otherwise it could not be told when the result changes."),
				 errhint("Write for example signed_up_at > now() - interval '5 days', or since(signed_up_at) < interval '5 days'."),
				 CdpPredicateErrorPosition(context->text, ((Var *) node)->location)));
	return expression_tree_mutator(node, rewrite_mutator, arg);
}

/*
 * Bring the comparisons with the clock of a planned expression into their
 * form; *used tells whether there is one.
 */
Expr *
CdpClockRewrite(Expr *expr, const char *text, bool *used)
{
	RewriteContext context = {text, false};

	*used = false;
	if (!contains_clock((Node *) expr, NULL))
		return expr;
	expr = (Expr *) rewrite_mutator((Node *) expr, &context);
	*used = context.used;
	return expr;
}
