/*-------------------------------------------------------------------------
 *
 * words.c
 *	  Arguments of the vocabulary's calls: constants, lengths of time,
 *	  expressions over an entry; and what a call stands for, to be read.
 *
 * IDENTIFICATION
 *	  src/segments/words.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "segments/words.h"

static void
refuse_argument(const NamedArgExpr *named, const char *word, const char *text,
				const CdpWordArgument *wanted, int nwanted)
{
	CdpNearest	nearest;

	CdpNearestBegin(&nearest, named->name);
	for (int i = 0; i < nwanted; i++)
		CdpNearestTry(&nearest, wanted[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_PARAMETER),
			 errmsg("%s() has no argument \"%s\"", word, named->name),
			 nearest.found != NULL ? errhint("Perhaps you meant %s.", nearest.found) : 0,
			 CdpPredicateErrorPosition(text, named->location)));
}

/*
 * Distribute the arguments of a call to those that its word takes; the first
 * one may be given by position.
 */
void
CdpWordArguments(const FuncCall *call, const char *word, const char *text,
				 CdpWordArgument *wanted, int nwanted, int npositional, int nrequired)
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
				refuse_argument(named, word, text, wanted, nwanted);
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
			if (i >= npositional)
				ereport(ERROR,
						(errcode(ERRCODE_SYNTAX_ERROR),
						 npositional == 0
						 ? errmsg("%s() takes no argument", word)
						 : npositional == 1
						 ? errmsg("only the first argument of %s() goes without its name", word)
						 : errmsg("only the first %d arguments of %s() go without their names",
								  npositional, word),
						 nwanted > npositional
						 ? errhint("Write for example %s => ….", wanted[npositional].name)
						 : 0,
						 CdpPredicateErrorPosition(text, exprLocation(arg))));
			if (wanted[i].value != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_SYNTAX_ERROR),
						 errmsg("argument \"%s\" of %s() is given twice",
								wanted[i].name, word),
						 CdpPredicateErrorPosition(text, exprLocation(arg))));
		}
		wanted[i].value = arg;
		wanted[i].location = exprLocation(arg);
	}

	for (int i = 0; i < nrequired; i++)
	{
		if (wanted[i].value == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_SYNTAX_ERROR),
					 errmsg("%s() needs the argument \"%s\"", word, wanted[i].name),
					 CdpPredicateErrorPosition(text, call->location)));
	}
}

static void
constant_error(const char *word, const CdpWordArgument *arg, const char *kind,
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
char *
CdpWordString(const char *word, const CdpWordArgument *arg, const char *text)
{
	A_Const    *constant = (A_Const *) arg->value;

	if (constant == NULL)
		return NULL;
	if (!IsA(constant, A_Const) || constant->isnull || !IsA(&constant->val, String))
		constant_error(word, arg, "string", text);
	return constant->val.sval.sval;
}

char *
CdpWordName(const char *word, const CdpWordArgument *arg, const char *text)
{
	char	   *name = CdpWordString(word, arg, text);

	if (name != NULL && name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the %s of %s() must not be empty", arg->name, word),
				 CdpPredicateErrorPosition(text, arg->location)));
	return name;
}

int
CdpWordCount(const char *word, const CdpWordArgument *arg, const char *text, int missing)
{
	A_Const    *constant = (A_Const *) arg->value;

	if (constant == NULL)
		return missing;
	if (!IsA(constant, A_Const) || constant->isnull || !IsA(&constant->val, Integer))
		constant_error(word, arg, "number of times", text);
	if (constant->val.ival.ival < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" of %s() must not be negative", arg->name, word),
				 CdpPredicateErrorPosition(text, arg->location)));
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
char *
CdpWordInterval(const char *word, const CdpWordArgument *arg, const char *text)
{
	CdpWordArgument inner = *arg;
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
	string = CdpWordString(word, &inner, text);

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
 * Entries know no clock but their own time, and not whose they are.
 */
static bool
refuse_walker(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, ColumnRef))
	{
		ColumnRef  *column = (ColumnRef *) node;
		Node	   *first = (Node *) linitial(column->fields);

		if (IsA(first, String) && strVal(first)[0] == CDP_HIDDEN_MARK)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the current time cannot be used in an expression over an entry"),
					 errhint("To ask what happened lately, use within, newer_than or older_than."),
					 CdpPredicateErrorPosition((const char *) arg, column->location)));
		return false;
	}
	if (IsA(node, FuncCall) && CdpVocabularyWord((FuncCall *) node))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s() cannot be used in an expression over an entry",
						strVal(llast(((FuncCall *) node)->funcname))),
				 errdetail("It is about a profile or an account."),
				 CdpPredicateErrorPosition((const char *) arg, ((FuncCall *) node)->location)));
	return raw_expression_tree_walker(node, refuse_walker, arg);
}

char *
CdpWordExpression(const char *word, const CdpWordArgument *arg, const char *text,
				  Oid type, const char *timezone)
{
	char	   *canonical;

	if (arg->value == NULL)
		return NULL;
	(void) refuse_walker(arg->value, unconstify(char *, text));
	if (timezone == NULL)
		return pstrdup("");
	(void) CdpTransformIn(arg->value, text, CdpEntryColumn, NULL, type,
						  arg->name, timezone, &canonical);
	return canonical;
}

static Datum
interval_datum(const char *string)
{
	return DirectFunctionCall3(interval_in, CStringGetDatum(string),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

CdpWordWindow
CdpWordWindowOf(const char *word, const CdpWordArgument *within,
				const CdpWordArgument *newer_than, const CdpWordArgument *older_than,
				const char *text)
{
	CdpWordWindow window;

	if (within->value != NULL && newer_than->value != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%s() takes either within or newer_than", word),
				 errdetail("Both mean the same."),
				 CdpPredicateErrorPosition(text, newer_than->location)));
	window.newer = CdpWordInterval(word, within->value ? within : newer_than, text);
	window.older = CdpWordInterval(word, older_than, text);
	if (window.newer != NULL && window.older != NULL &&
		!DatumGetBool(DirectFunctionCall2(interval_lt, interval_datum(window.older),
										  interval_datum(window.newer))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("newer_than must be longer than older_than"),
				 errhint("Write for example newer_than => '28 days', older_than => '14 days'."),
				 CdpPredicateErrorPosition(text, older_than->location)));
	return window;
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
	else if (term->kind == CDP_TERM_KIND)
		appendStringInfo(&out, "has_identifier(%s)", quote_literal_cstr(term->name));
	else if (term->over_members)
		appendStringInfo(&out, "count_members(%s)", term->name);
	else if (term->of_account)
		appendStringInfo(&out, "member_of(%s)", quote_literal_cstr(term->name));
	else if (term->of_calls)
		appendStringInfo(&out, "changed(%s, ...)", quote_identifier(term->name));
	else if (term->aggregate == CDP_AGG_LIST)
		appendStringInfo(&out, "did_in_order(%s, ...)", quote_literal_cstr(term->name));
	else
	{
		appendStringInfo(&out, "%s(%s",
						 term->aggregate == CDP_AGG_SUM ? "sum_of" : "count_of",
						 quote_literal_cstr(term->name));
		if (term->value != NULL)
			appendStringInfo(&out, ", %s", term->value);
		if (term->within != NULL && strcmp(term->within, CDP_EVER) != 0)
			appendStringInfo(&out, ", within => %s", quote_literal_cstr(term->within));
		if (term->filter != NULL)
			appendStringInfo(&out, ", filter => %s", term->filter);
		appendStringInfoChar(&out, ')');
	}
	return out.data;
}

Node *
CdpColumnNode(char *name, int location)
{
	ColumnRef  *column = makeNode(ColumnRef);

	column->fields = list_make1(makeString(name));
	column->location = location;
	return (Node *) column;
}

Node *
CdpOperationNode(const char *operator, Node *left, Node *right, int location)
{
	/* the search path is pinned: no other operator can be meant */
	return (Node *) makeSimpleA_Expr(AEXPR_OP, pstrdup(operator), left, right, location);
}

Node *
CdpNumberNode(int number)
{
	A_Const    *constant = makeNode(A_Const);

	constant->val.ival.type = T_Integer;
	constant->val.ival.ival = number;
	constant->location = -1;
	return (Node *) constant;
}
