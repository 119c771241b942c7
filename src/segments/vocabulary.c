/*-------------------------------------------------------------------------
 *
 * vocabulary.c
 *	  The words of predicates that SQL does not know: did(), did_not(),
 *	  count_of(), in_segment().
 *
 *	  PostgreSQL's parser has hooks for columns and parameters and none for
 *	  functions.  So these calls are replaced in the raw tree, before name
 *	  resolution, by expressions over hidden columns:
 *
 *		did(e, at_least => 2, …)	->	"\1n" >= 2
 *		did_not(e, …)				->	"\1n" = 0
 *		count_of(e, …)				->	"\1n"
 *		in_segment('s')				->	"\1n"
 *
 *	  where n is the number of the call in the text.  A call is replaced in
 *	  place: every node that takes its stead fits in the memory of a FuncCall.
 *	  No name that a user writes can be mistaken for a hidden column, because
 *	  columns whose names begin with \1 are refused.
 *
 * IDENTIFICATION
 *	  src/segments/vocabulary.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "segments/predicate.h"

#define HIDDEN_MARK		'\001'

StaticAssertDecl(sizeof(ColumnRef) <= sizeof(FuncCall), "replaced in place");
StaticAssertDecl(sizeof(A_Expr) <= sizeof(FuncCall), "replaced in place");
StaticAssertDecl(sizeof(BoolExpr) <= sizeof(FuncCall), "replaced in place");

typedef struct ReplaceContext
{
	const char *text;
	const char *timezone;		/* NULL: pass over filters */
	List	   *terms;
} ReplaceContext;

/* An argument of a vocabulary call. */
typedef struct WordArgument
{
	const char *name;
	Node	   *value;			/* NULL: not given */
	int			location;
} WordArgument;

/* Words of the language that this version does not evaluate. */
static const char *const later_words[] = {
	"all_members", "any_member", "changed", "consented", "count_members",
	"did_in_order", "first_time", "has_identifier", "known", "member_of",
	"since", "sum_of", "until"
};

/* Ways to ask for the time of day. */
static const char *const clock_words[] = {
	"clock_timestamp", "now", "statement_timestamp", "timeofday",
	"transaction_timestamp"
};

/*
 * For use in ereport: where in the text of a definition an error is.
 */
int
CdpPredicateErrorPosition(const char *text, int location)
{
	if (location >= 0)
	{
		internalerrquery(text);
		internalerrposition(pg_mbstrlen_with_len(text, location) + 1);
	}
	return 0;
}

static bool
is_word(const char *name, const char *const *words, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (strcmp(words[i], name) == 0)
			return true;
	}
	return false;
}

/*
 * The number of a hidden column; -1 for other names.
 */
int
CdpHiddenColumn(const char *name)
{
	return name[0] == HIDDEN_MARK ? atoi(name + 1) : -1;
}

/*
 * Distribute the arguments of a call to those that its word takes; the first
 * one may be given by position.
 */
static void
match_arguments(const FuncCall *call, const char *word, const char *text,
				WordArgument *wanted, int nwanted)
{
	ListCell   *lc;
	int			position = 0;

	if (call->agg_order != NIL || call->agg_filter != NULL || call->over != NULL ||
		call->agg_within_group || call->agg_star || call->agg_distinct ||
		call->func_variadic)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%s() takes only plain arguments", word),
				 CdpPredicateErrorPosition(text, call->location)));

	foreach(lc, call->args)
	{
		Node	   *arg = (Node *) lfirst(lc);
		int			i;

		if (IsA(arg, NamedArgExpr))
		{
			NamedArgExpr *named = (NamedArgExpr *) arg;

			for (i = 0; i < nwanted; i++)
			{
				if (strcmp(named->name, wanted[i].name) == 0)
					break;
			}
			if (i == nwanted)
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_PARAMETER),
						 errmsg("%s() has no argument \"%s\"", word, named->name),
						 CdpPredicateErrorPosition(text, named->location)));
			arg = (Node *) named->arg;
			if (wanted[i].value != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_SYNTAX_ERROR),
						 errmsg("argument \"%s\" of %s() is given twice",
								wanted[i].name, word),
						 CdpPredicateErrorPosition(text, named->location)));
		}
		else
		{
			i = position++;
			if (i > 0)
				ereport(ERROR,
						(errcode(ERRCODE_SYNTAX_ERROR),
						 errmsg("only the first argument of %s() goes without its name", word),
						 nwanted > 1
						 ? errhint("Write for example %s => ….", wanted[1].name)
						 : 0,
						 CdpPredicateErrorPosition(text, exprLocation(arg))));
		}
		wanted[i].value = arg;
		wanted[i].location = exprLocation(arg);
	}

	if (wanted[0].value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%s() needs the argument \"%s\"", word, wanted[0].name),
				 CdpPredicateErrorPosition(text, call->location)));
}

static void
constant_error(const char *word, const WordArgument *arg, const char *kind,
			   const char *text)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("argument \"%s\" of %s() must be a constant %s",
					arg->name, word, kind),
			 CdpPredicateErrorPosition(text, arg->location)));
}

/*
 * A string constant; NULL when the argument is not given.
 */
static char *
string_argument(const char *word, const WordArgument *arg, const char *text)
{
	A_Const    *constant = (A_Const *) arg->value;

	if (constant == NULL)
		return NULL;
	if (!IsA(constant, A_Const) || constant->isnull || !IsA(&constant->val, String))
		constant_error(word, arg, "string", text);
	return constant->val.sval.sval;
}

static int
count_argument(const char *word, const WordArgument *arg, const char *text, int missing)
{
	A_Const    *constant = (A_Const *) arg->value;

	if (constant == NULL)
		return missing;
	if (!IsA(constant, A_Const) || constant->isnull || !IsA(&constant->val, Integer))
		constant_error(word, arg, "number of times", text);
	return constant->val.ival.ival;
}

/* where the text of an argument is wrong, when its type's input says so */
typedef struct ArgumentPlace
{
	const char *text;
	int			location;
} ArgumentPlace;

static void
argument_error(void *arg)
{
	ArgumentPlace *place = (ArgumentPlace *) arg;

	if (geterrposition() == 0 && getinternalerrposition() == 0)
		(void) CdpPredicateErrorPosition(place->text, place->location);
}

/*
 * A length of time, '7 days' or interval '7 days'; its canonical text, so
 * that '1 week' and '7 days' are one.
 */
static char *
interval_argument(const char *word, const WordArgument *arg, const char *text)
{
	WordArgument inner = *arg;
	TypeCast   *cast = (TypeCast *) arg->value;
	ErrorContextCallback callback;
	ArgumentPlace place;
	char	   *string;
	Interval   *interval;
	Interval	zero;

	if (cast == NULL)
		return NULL;
	if (IsA(cast, TypeCast) && cast->typeName->typmods == NIL &&
		cast->typeName->arrayBounds == NIL && !cast->typeName->setof &&
		cast->typeName->names != NIL &&
		strcmp(strVal(llast(cast->typeName->names)), "interval") == 0)
		inner.value = cast->arg;
	if (!IsA(inner.value, A_Const) || ((A_Const *) inner.value)->isnull ||
		!IsA(&((A_Const *) inner.value)->val, String))
		constant_error(word, arg, "interval", text);
	string = string_argument(word, &inner, text);

	place.text = text;
	place.location = arg->location;
	callback.callback = argument_error;
	callback.arg = &place;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	interval = DatumGetIntervalP(DirectFunctionCall3(interval_in,
													 CStringGetDatum(string),
													 ObjectIdGetDatum(InvalidOid),
													 Int32GetDatum(-1)));
	error_context_stack = callback.previous;

	memset(&zero, 0, sizeof(zero));
	if (!DatumGetBool(DirectFunctionCall2(interval_gt,
										  IntervalPGetDatum(interval),
										  IntervalPGetDatum(&zero))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" of %s() must be positive", arg->name, word),
				 CdpPredicateErrorPosition(text, arg->location)));
	return DatumGetCString(DirectFunctionCall1(interval_out,
											   IntervalPGetDatum(interval)));
}

/*
 * The filter's text as the system writes it, so that equal filters are equal
 * texts.
 */
static char *
filter_argument(const WordArgument *arg, const char *text, const char *timezone)
{
	char	   *canonical;

	if (arg->value == NULL)
		return NULL;
	(void) CdpTransformIn(arg->value, text, CdpEntryColumn, NULL, BOOLOID,
						  "filter", timezone, &canonical);
	return canonical;
}

/* ---- the nodes that take a call's place ---- */

static ColumnRef *
hidden_column(int n, int location)
{
	ColumnRef  *column = makeNode(ColumnRef);

	column->fields = list_make1(makeString(psprintf("%c%d", HIDDEN_MARK, n)));
	column->location = location;
	return column;
}

static A_Expr *
compare(int column, const char *operator, int number, int location)
{
	A_Const    *constant = makeNode(A_Const);

	constant->val.ival.type = T_Integer;
	constant->val.ival.ival = number;
	constant->location = -1;
	return makeA_Expr(AEXPR_OP,
					  list_make2(makeString(pstrdup("pg_catalog")),
								 makeString(pstrdup(operator))),
					  (Node *) hidden_column(column, location),
					  (Node *) constant, location);
}

static void
replace_did(FuncCall *call, CdpTerm *term, WordArgument *args, const char *text, int number)
{
	int			at_least = count_argument(term->word, &args[3], text, 1);
	int			at_most = count_argument(term->word, &args[4], text, -1);

	if (at_most >= 0 && at_most < at_least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("did() with at_least => %d and at_most => %d can never be true",
						at_least, at_most),
				 at_most == 0 ? errhint("Use did_not().") : 0,
				 CdpPredicateErrorPosition(text, call->location)));
	if (at_most < 0)
		memcpy(call, compare(number, ">=", at_least, call->location), sizeof(A_Expr));
	else
	{
		List	   *both = list_make2(compare(number, ">=", at_least, call->location),
									  compare(number, "<=", at_most, call->location));

		memcpy(call, makeBoolExpr(AND_EXPR, both, call->location), sizeof(BoolExpr));
	}
}

static void
replace_call(FuncCall *call, const char *word, ReplaceContext *context)
{
	const char *text = context->text;
	int			number = list_length(context->terms);
	int			location = call->location;
	CdpTerm    *term = (CdpTerm *) palloc0(sizeof(CdpTerm));
	WordArgument args[] = {
		{"event"}, {"within"}, {"filter"}, {"at_least"}, {"at_most"}
	};

	term->word = pstrdup(word);
	term->location = location;

	if (strcmp(word, "in_segment") == 0)
	{
		args[0].name = "segment";
		match_arguments(call, word, text, args, 1);
		term->kind = CDP_TERM_SEGMENT;
		term->name = string_argument(word, &args[0], text);
		term->name_location = args[0].location;
		memcpy(call, hidden_column(number, location), sizeof(ColumnRef));
	}
	else
	{
		bool		did = strcmp(word, "did") == 0;

		match_arguments(call, word, text, args, did ? 5 : 3);
		term->kind = CDP_TERM_COUNT;
		term->name = string_argument(word, &args[0], text);
		term->name_location = args[0].location;
		if (term->name[0] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the event of %s() must not be empty", word),
					 CdpPredicateErrorPosition(text, term->name_location)));
		term->within = interval_argument(word, &args[1], text);
		if (context->timezone != NULL)
			term->filter = filter_argument(&args[2], text, context->timezone);
		if (did)
			replace_did(call, term, args, text, number);
		else if (strcmp(word, "did_not") == 0)
			memcpy(call, compare(number, "=", 0, location), sizeof(A_Expr));
		else
			memcpy(call, hidden_column(number, location), sizeof(ColumnRef));
	}
	context->terms = lappend(context->terms, term);
}

static void
clock_error(const char *word, const char *text, int location)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s cannot be used in a predicate", word),
			 errhint("To ask what happened lately, use did(…, within => '7 days') or count_of(…, within => '7 days')."),
			 CdpPredicateErrorPosition(text, location)));
}

static bool
replace_walker(Node *node, void *arg)
{
	ReplaceContext *context = (ReplaceContext *) arg;

	if (node == NULL)
		return false;
	CHECK_FOR_INTERRUPTS();

	if (IsA(node, ColumnRef))
	{
		ColumnRef  *column = (ColumnRef *) node;
		Node	   *first = (Node *) linitial(column->fields);

		if (IsA(first, String) && strVal(first)[0] == HIDDEN_MARK)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("a name cannot begin with a control character"),
					 CdpPredicateErrorPosition(context->text, column->location)));
		return false;
	}
	if (IsA(node, SQLValueFunction))
	{
		SQLValueFunction *function = (SQLValueFunction *) node;

		if (function->op <= SVFOP_LOCALTIMESTAMP_N)
			clock_error("the current time", context->text, function->location);
		return false;
	}
	if (IsA(node, FuncCall))
	{
		FuncCall   *call = (FuncCall *) node;
		const char *word = strVal(llast(call->funcname));
		const char *schema = NULL;

		if (list_length(call->funcname) > 1)
			schema = strVal(linitial(call->funcname));
		if (schema == NULL || strcmp(schema, "cdp") == 0)
		{
			if (strcmp(word, "did") == 0 || strcmp(word, "did_not") == 0 ||
				strcmp(word, "count_of") == 0 || strcmp(word, "in_segment") == 0)
			{
				replace_call(call, word, context);
				return false;
			}
			if (is_word(word, later_words, lengthof(later_words)))
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("%s() is not supported in predicates yet", word),
						 errhint("This version has did(), did_not(), count_of() and in_segment()."),
						 CdpPredicateErrorPosition(context->text, call->location)));
		}
		if ((schema == NULL || strcmp(schema, "pg_catalog") == 0) &&
			is_word(word, clock_words, lengthof(clock_words)))
			clock_error(psprintf("%s()", word), context->text, call->location);
	}
	return raw_expression_tree_walker(node, replace_walker, arg);
}

List *
CdpVocabularyReplace(Node *raw, const char *text, const char *timezone)
{
	ReplaceContext context;

	context.text = text;
	context.timezone = timezone;
	context.terms = NIL;
	(void) replace_walker(raw, &context);
	return context.terms;
}

/*
 * A term for people to read.
 */
char *
CdpTermText(const CdpTerm *term)
{
	StringInfoData out;

	initStringInfo(&out);
	if (term->kind == CDP_TERM_SEGMENT)
		appendStringInfo(&out, "in_segment(%s)", quote_literal_cstr(term->name));
	else
	{
		appendStringInfo(&out, "count_of(%s", quote_literal_cstr(term->name));
		if (term->within != NULL)
			appendStringInfo(&out, ", within => %s", quote_literal_cstr(term->within));
		if (term->filter != NULL)
			appendStringInfo(&out, ", filter => %s", term->filter);
		appendStringInfoChar(&out, ')');
	}
	return out.data;
}
