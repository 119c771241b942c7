/*-------------------------------------------------------------------------
 *
 * vocabulary.c
 *	  The words of predicates that SQL does not know: did(), count_of(),
 *	  since(), in_segment() and so on.
 *
 *	  PostgreSQL's parser has hooks for columns and parameters and none for
 *	  functions.  So these calls are replaced in the raw tree, before name
 *	  resolution, by expressions over hidden columns:
 *
 *		did(e, at_least => 2, …)	->	"\1n" >= 2
 *		did_not(e, …)				->	"\1n" = 0
 *		count_of(e, …)				->	"\1n"
 *		count_of(e, newer_than => a, older_than => b)	->	"\1n" - "\1m"
 *		sum_of(e, v, …)				->	COALESCE("\1n", 0)
 *		first_time(e, within => w)	->	"\1n" >= 1 AND "\1n" = "\1m"
 *		in_segment('s')				->	"\1n"
 *		has_identifier('k')			->	'k' = ANY ("\1K")
 *		known()						->	"\1W"
 *		member_of(a)				->	COALESCE("\1n", false)
 *		any_member(p)				->	"\1n" >= 1
 *		all_members(p)				->	"\1n" >= 1 AND "\1n" = "\1m"
 *		count_members(p)			->	"\1n"
 *		any_member(in_segment('s'))	->	"\1m" >= 1, where n is the segment
 *		any_member(since(t) < i)	->	the same, where n is a hidden segment
 *		consented(p)				->	NOT ("\1Cp" IS DISTINCT FROM 'granted')
 *		now()						->	"\1N"
 *		account.t					->	"\1At"
 *		did_in_order(s, …)			->	cdp.sequence_is("\1N", "\1n", rules)
 *		changed(t, …)				->	cdp.changed_is("\1N", "\1n", rules)
 *		since(t), until(t)			->	"\1N" - t, t - "\1N"
 *
 *	  where n and m are numbers of terms, counted through the text.  A call is
 *	  replaced in place: every node that takes its stead fits in the memory of
 *	  a FuncCall.  Nobody can write the name of a hidden column
 *	  (CdpPredicateParse).
 *
 * IDENTIFICATION
 *	  src/segments/vocabulary.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "segments/words.h"

StaticAssertDecl(sizeof(ColumnRef) <= sizeof(FuncCall), "replaced in place");
StaticAssertDecl(sizeof(A_Expr) <= sizeof(FuncCall), "replaced in place");
StaticAssertDecl(sizeof(BoolExpr) <= sizeof(FuncCall), "replaced in place");
StaticAssertDecl(sizeof(CoalesceExpr) <= sizeof(FuncCall), "replaced in place");

typedef struct ReplaceContext
{
	const char *text;
	const char *timezone;		/* NULL: pass over filters */
	List	   *terms;
	const char *members;		/* in a predicate about members: the word before it */
	List	   *calls;			/* there: CdpMemberCall * */
} ReplaceContext;

/* A call that is being replaced. */
typedef struct Call
{
	FuncCall   *node;
	const char *word;
	int			location;
	ReplaceContext *context;
} Call;

typedef void (*CdpWordReplace) (Call *call);

static void replace_changed(Call *call);
static void replace_consented(Call *call);
static void replace_count(Call *call);
static void replace_sum(Call *call);
static void replace_first_time(Call *call);
static void replace_in_segment(Call *call);
static void replace_has_identifier(Call *call);
static void replace_known(Call *call);
static void replace_member_of(Call *call);
static void replace_members(Call *call);
static void replace_in_order(Call *call);
static void replace_since(Call *call);
static void replace_now(Call *call);
static bool replace_walker(Node *node, void *arg);

static const struct
{
	const char *word;
	CdpWordReplace replace;
}			vocabulary[] = {
	{"all_members", replace_members},
	{"any_member", replace_members},
	{"changed", replace_changed},
	{"consented", replace_consented},
	{"count_members", replace_members},
	{"count_of", replace_count},
	{"did", replace_count},
	{"did_in_order", replace_in_order},
	{"did_not", replace_count},
	{"first_time", replace_first_time},
	{"has_identifier", replace_has_identifier},
	{"in_segment", replace_in_segment},
	{"known", replace_known},
	{"member_of", replace_member_of},
	{"since", replace_since},
	{"sum_of", replace_sum},
	{"until", replace_since},
};

/* The instant of evaluation … */
static const char *const now_words[] = {
	"now", "statement_timestamp", "transaction_timestamp"
};

/* … and what is not quite the same. */
static const char *const clock_words[] = {"clock_timestamp", "timeofday"};

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

bool
CdpVocabularyWord(const FuncCall *call)
{
	const char *word = strVal(llast(call->funcname));
	const char *schema = list_length(call->funcname) > 1 ? strVal(linitial(call->funcname)) : NULL;

	if (schema != NULL && strcmp(schema, "cdp") != 0)
		return false;
	for (int i = 0; i < lengthof(vocabulary); i++)
		if (strcmp(vocabulary[i].word, word) == 0)
			return true;
	return false;
}

/*
 * Is it a call of the vocabulary, or one that tells the time?
 */
bool
CdpVocabularyCall(const FuncCall *call)
{
	const char *schema = list_length(call->funcname) > 1 ? strVal(linitial(call->funcname)) : NULL;

	return CdpVocabularyWord(call) ||
		((schema == NULL || strcmp(schema, "pg_catalog") == 0) &&
		 is_word(strVal(llast(call->funcname)), now_words, lengthof(now_words)));
}

/*
 * The number of a term by the name of its hidden column; -1 for other names.
 */
int
CdpHiddenColumn(const char *name)
{
	return name[0] == CDP_HIDDEN_MARK && name[1] >= '0' && name[1] <= '9' ?
		atoi(name + 1) : -1;
}

/* ---- the nodes that take a call's place ---- */

static Node *
term_column(int n, int location)
{
	return CdpColumnNode(psprintf("%c%d", CDP_HIDDEN_MARK, n), location);
}

static Node *
environment_column(char code, int location)
{
	return CdpColumnNode(psprintf("%c%c", CDP_HIDDEN_MARK, code), location);
}

/*
 * Put a node in the place of the call.
 */
static void
put(Call *call, Node *node)
{
	Size		size;

	switch (nodeTag(node))
	{
		case T_ColumnRef:
			size = sizeof(ColumnRef);
			break;
		case T_A_Expr:
			size = sizeof(A_Expr);
			break;
		case T_BoolExpr:
			size = sizeof(BoolExpr);
			break;
		case T_CoalesceExpr:
			size = sizeof(CoalesceExpr);
			break;
		default:
			elog(ERROR, "unexpected node type: %d", (int) nodeTag(node));
	}
	memcpy(call->node, node, size);
}

/* ---- terms ---- */

static CdpTerm *
new_term(Call *call, CdpTermKind kind, int name_location)
{
	CdpTerm    *term = (CdpTerm *) palloc0(sizeof(CdpTerm));

	if (list_length(call->context->terms) >= CDP_MAX_TERMS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("predicate has too many calls of did(), count_of() and the like"),
				 errdetail("It may have at most %d.", CDP_MAX_TERMS),
				 CdpPredicateErrorPosition(call->context->text, call->location)));
	term->kind = kind;
	term->number = list_length(call->context->terms);
	term->word = pstrdup(call->word);
	term->of_member = call->context->members != NULL;
	term->location = call->location;
	term->name_location = name_location;
	call->context->terms = lappend(call->context->terms, term);
	return term;
}

static CdpTerm *
add_term(Call *call, CdpTermKind kind, const CdpWordArgument *name)
{
	CdpTerm    *term = new_term(call, kind, name->location);

	term->name = CdpWordName(call->word, name, call->context->text);
	return term;
}

/*
 * An aggregate of the entries in a window.  Everything that is older than 14
 * days at an instant has left the window of 14 days by then; so "from 28 to 14
 * days ago" is what the window of 28 days has more than that of 14.
 */
static Node *
aggregate_node(Call *call, CdpAggregate aggregate, const CdpWordArgument *name,
			   char *value, char *filter, CdpWordWindow window)
{
	CdpTerm    *term = add_term(call, CDP_TERM_TRAIT, name);
	Node	   *node;

	term->aggregate = aggregate;
	term->value = value;
	term->filter = filter;
	/* of all times, but not what is still to come */
	term->within = window.newer == NULL && window.older != NULL ?
		pstrdup(CDP_EVER) : window.newer;
	node = term_column(term->number, call->location);
	if (aggregate == CDP_AGG_SUM)
	{
		CoalesceExpr *coalesce = makeNode(CoalesceExpr);

		coalesce->args = list_make2(node, CdpNumberNode(0));
		coalesce->location = call->location;
		node = (Node *) coalesce;
	}
	if (window.older != NULL)
	{
		CdpWordWindow		recent = {window.older, NULL};

		node = CdpOperationNode("-", node,
						 aggregate_node(call, aggregate, name, value, filter, recent),
						 call->location);
	}
	return node;
}

/* did, did_not, count_of */
static void
replace_count(Call *call)
{
	const char *text = call->context->text;
	bool		did = strcmp(call->word, "did") == 0;
	CdpWordArgument args[] = {
		{"event"}, {"within"}, {"newer_than"}, {"older_than"}, {"filter"},
		{"at_least"}, {"at_most"}
	};
	int			at_least;
	int			at_most;
	CdpWordWindow		window;
	char	   *filter;
	Node	   *count;

	CdpWordArguments(call->node, call->word, text, args, did ? 7 : 5, 1, 1);
	(void) CdpWordName(call->word, &args[0], text);
	window = CdpWordWindowOf(call->word, &args[1], &args[2], &args[3], text);
	filter = CdpWordExpression("filter", &args[4], text, BOOLOID, call->context->timezone);
	at_least = CdpWordCount(call->word, &args[5], text, 1);
	at_most = CdpWordCount(call->word, &args[6], text, -1);
	if (did && at_most >= 0 && at_most < at_least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("did() with at_least => %d and at_most => %d can never be true",
						at_least, at_most),
				 at_most == 0 ? errhint("Use did_not().") : 0,
				 CdpPredicateErrorPosition(text, call->location)));

	count = aggregate_node(call, CDP_AGG_COUNT, &args[0], NULL, filter, window);
	if (strcmp(call->word, "did_not") == 0)
		count = CdpOperationNode("=", count, CdpNumberNode(0), call->location);
	else if (did && at_most < 0)
		count = CdpOperationNode(">=", count, CdpNumberNode(at_least), call->location);
	else if (did)
		count = (Node *)
			makeBoolExpr(AND_EXPR,
						 list_make2(CdpOperationNode(">=", count, CdpNumberNode(at_least), call->location),
									CdpOperationNode("<=", copyObject(count), CdpNumberNode(at_most),
											  call->location)),
						 call->location);
	put(call, count);
}

static void
replace_sum(Call *call)
{
	const char *text = call->context->text;
	CdpWordArgument args[] = {
		{"event"}, {"value"}, {"within"}, {"newer_than"}, {"older_than"}, {"filter"}
	};
	CdpWordWindow		window;
	char	   *value;
	char	   *filter;

	CdpWordArguments(call->node, call->word, text, args, lengthof(args), 2, 2);
	(void) CdpWordName(call->word, &args[0], text);
	window = CdpWordWindowOf(call->word, &args[2], &args[3], &args[4], text);
	value = CdpWordExpression(call->word, &args[1], text, NUMERICOID, call->context->timezone);
	filter = CdpWordExpression(call->word, &args[5], text, BOOLOID, call->context->timezone);
	put(call, aggregate_node(call, CDP_AGG_SUM, &args[0], value, filter, window));
}

/* Did it lately, and never before that. */
static void
replace_first_time(Call *call)
{
	const char *text = call->context->text;
	CdpWordArgument args[] = {{"event"}, {"within"}, {"filter"}};
	CdpWordWindow		ever = {NULL, NULL};
	CdpWordWindow		lately = {NULL, NULL};
	char	   *filter;
	Node	   *recent;

	CdpWordArguments(call->node, call->word, text, args, lengthof(args), 1, 2);
	(void) CdpWordName(call->word, &args[0], text);
	lately.newer = CdpWordInterval(call->word, &args[1], text);
	filter = CdpWordExpression(call->word, &args[2], text, BOOLOID, call->context->timezone);
	recent = aggregate_node(call, CDP_AGG_COUNT, &args[0], NULL, filter, lately);
	put(call, (Node *)
		makeBoolExpr(AND_EXPR,
					 list_make2(CdpOperationNode(">=", recent, CdpNumberNode(1), call->location),
								CdpOperationNode("=", copyObject(recent),
										  aggregate_node(call, CDP_AGG_COUNT, &args[0],
														 NULL, filter, ever),
										  call->location)),
					 call->location));
}

/* A step of a sequence: an event, or step(event, filter => …, same => …). */
typedef struct Step
{
	CdpWordArgument event;
	char	   *filter;
	char	   *same;			/* NULL: none of its own */
} Step;

static Step
read_step(Call *call, Node *node)
{
	const char *text = call->context->text;
	const char *timezone = call->context->timezone;
	Step		step = {{"event", node, exprLocation(node)}, NULL, NULL};

	if (IsA(node, FuncCall) && list_length(((FuncCall *) node)->funcname) == 1 &&
		strcmp(strVal(linitial(((FuncCall *) node)->funcname)), "step") == 0)
	{
		CdpWordArgument args[] = {{"event"}, {"filter"}, {"same"}};

		CdpWordArguments((FuncCall *) node, "step", text, args, lengthof(args), 1, 1);
		step.event = args[0];
		step.filter = CdpWordExpression("step", &args[1], text, BOOLOID, timezone);
		step.same = CdpWordExpression("step", &args[2], text, InvalidOid, timezone);
	}
	(void) CdpWordName(call->word, &step.event, text);
	return step;
}

/*
 * The part of the hidden trait's value that is about one step: its key, or
 * NULL when the entry does not match.
 */
static char *
step_key(Call *call, const Step *step, const char *same)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "CASE WHEN event = %s",
					 quote_literal_cstr(CdpWordName(call->word, &step->event,
													call->context->text)));
	if (step->filter != NULL)
		appendStringInfo(&out, " AND (%s)", step->filter);
	same = step->same ? step->same : same;
	if (same != NULL)
		appendStringInfo(&out, " THEN (%s)::text END", same);
	else
		appendStringInfoString(&out, " THEN '' END");
	return out.data;
}

/*
 * did_in_order(step, step …, within, newer_than, same, then_not)
 */
static void
replace_in_order(Call *call)
{
	const char *text = call->context->text;
	CdpWordArgument args[] = {{"steps"}, {"within"}, {"newer_than"}, {"same"}, {"then_not"}};
	FuncCall	named = *call->node;
	List	   *nodes = NIL;
	Step		steps[CDP_MAX_STEPS + 1];
	StringInfoData value;
	StringInfoData filter;
	CdpTerm    *term;
	A_Const    *rules = makeNode(A_Const);
	ListCell   *lc;
	char	   *same;
	char	   *within;
	char	   *newer;
	int			n = 0;

	named.args = NIL;
	foreach(lc, call->node->args)
	{
		Node	   *arg = (Node *) lfirst(lc);

		if (IsA(arg, NamedArgExpr))
			named.args = lappend(named.args, arg);
		else if (IsA(arg, A_ArrayExpr))
			nodes = list_concat(nodes, ((A_ArrayExpr *) arg)->elements);
		else
			nodes = lappend(nodes, arg);
	}
	CdpWordArguments(&named, call->word, text, args, lengthof(args), 0, 0);
	if (args[0].value != NULL && IsA(args[0].value, A_ArrayExpr))
		nodes = list_concat(nodes, ((A_ArrayExpr *) args[0].value)->elements);
	else if (args[0].value != NULL)
		nodes = lappend(nodes, args[0].value);
	if (nodes == NIL || list_length(nodes) > CDP_MAX_STEPS ||
		(list_length(nodes) == 1 && args[4].value == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("did_in_order() needs two to %d steps, or one and then_not", CDP_MAX_STEPS),
				 errhint("Write for example did_in_order('Cart Filled', then_not => 'Order Completed', within => '1 hour')."),
				 CdpPredicateErrorPosition(text, call->location)));
	within = CdpWordInterval(call->word, &args[1], text);
	newer = CdpWordInterval(call->word, &args[2], text);
	same = CdpWordExpression(call->word, &args[3], text, InvalidOid, call->context->timezone);
	foreach(lc, nodes)
		steps[n++] = read_step(call, (Node *) lfirst(lc));
	if (args[4].value != NULL)
		steps[n++] = read_step(call, args[4].value);

	initStringInfo(&value);
	initStringInfo(&filter);
	appendStringInfoString(&value, "jsonb_build_array((extract(epoch FROM occurred_at) * 1000000)::bigint");
	for (int i = 0; i < n; i++)
	{
		char	   *key = step_key(call, &steps[i], same);

		appendStringInfo(&value, ", %s", key);
		appendStringInfo(&filter, "%s(%s) IS NOT NULL", i > 0 ? " OR " : "", key);
	}
	appendStringInfoChar(&value, ')');

	term = add_term(call, CDP_TERM_TRAIT, &steps[0].event);
	term->aggregate = CDP_AGG_LIST;
	term->value = value.data;
	term->filter = filter.data;

	rules->val.sval.type = T_String;
	rules->val.sval.sval = CdpSequenceRules(list_length(nodes), args[4].value != NULL,
											within, newer);
	rules->location = -1;
	call->node->funcname = list_make2(makeString("cdp"), makeString("sequence_is"));
	call->node->args = list_make3(environment_column(CDP_HIDDEN_NOW, call->location),
								  term_column(term->number, call->location), rules);
}

/*
 * changed(trait, within, newer_than, older_than, was, became, at_least)
 */
static void
replace_changed(Call *call)
{
	const char *text = call->context->text;
	CdpWordArgument args[] = {
		{"trait"}, {"within"}, {"newer_than"}, {"older_than"}, {"was"}, {"became"}, {"at_least"}
	};
	A_Const    *rules = makeNode(A_Const);
	ColumnRef  *column;
	CdpTerm    *term;
	CdpWordWindow		window;
	char	   *constants[2] = {NULL, NULL};
	int			at_least;

	CdpWordArguments(call->node, call->word, text, args, lengthof(args), 1, 1);
	column = (ColumnRef *) args[0].value;
	if (!IsA(column, ColumnRef) || list_length(column->fields) != 1 ||
		!IsA(linitial(column->fields), String) ||
		strVal(linitial(column->fields))[0] == CDP_HIDDEN_MARK)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("argument \"trait\" of changed() must be the name of a trait"),
				 errhint("Write for example changed(plan, within => '7 days')."),
				 CdpPredicateErrorPosition(text, args[0].location)));
	window = CdpWordWindowOf(call->word, &args[1], &args[2], &args[3], text);
	for (int i = 0; i < lengthof(constants); i++)
	{
		CdpWordArgument *arg = &args[4 + i];

		if (arg->value == NULL)
			continue;
		constants[i] = CdpChangedConstant(arg->value);
		if (constants[i] == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_SYNTAX_ERROR),
					 errmsg("argument \"%s\" of changed() must be a constant", arg->name),
					 CdpPredicateErrorPosition(text, arg->location)));
	}
	at_least = CdpWordCount(call->word, &args[6], text, 1);

	term = new_term(call, CDP_TERM_TRAIT, args[0].location);
	term->name = strVal(linitial(column->fields));
	term->aggregate = CDP_AGG_LIST;
	term->of_calls = true;

	rules->val.sval.type = T_String;
	rules->val.sval.sval = CdpChangedRules(window.newer, window.older, at_least,
										   constants[0], constants[1]);
	rules->location = -1;
	call->node->funcname = list_make2(makeString("cdp"), makeString("changed_is"));
	call->node->args = list_make3(environment_column(CDP_HIDDEN_NOW, call->location),
								  term_column(term->number, call->location), rules);
}

/*
 * The term that a call of in_segment is.
 */
static CdpTerm *
segment_term(FuncCall *node, ReplaceContext *context)
{
	CdpWordArgument args[] = {{"segment"}};
	Call		call = {node, "in_segment", node->location, context};

	CdpWordArguments(node, call.word, context->text, args, 1, 1, 1);
	return add_term(&call, CDP_TERM_SEGMENT, &args[0]);
}

static void
replace_in_segment(Call *call)
{
	put(call, term_column(segment_term(call->node, call->context)->number, call->location));
}

static void
replace_has_identifier(Call *call)
{
	CdpWordArgument args[] = {{"kind"}};

	CdpWordArguments(call->node, call->word, call->context->text, args, 1, 1, 1);
	(void) add_term(call, CDP_TERM_KIND, &args[0]);
	put(call, (Node *)
		makeSimpleA_Expr(AEXPR_OP_ANY, "=", args[0].value,
						 environment_column(CDP_HIDDEN_KINDS, call->location),
						 call->location));
}

static void
replace_known(Call *call)
{
	CdpWordArguments(call->node, call->word, call->context->text, NULL, 0, 0, 0);
	put(call, environment_column(CDP_HIDDEN_KNOWN, call->location));
}

static void
replace_member_of(Call *call)
{
	CdpWordArgument args[] = {{"account"}};
	CoalesceExpr *coalesce = makeNode(CoalesceExpr);
	A_Const    *never = makeNode(A_Const);
	CdpTerm    *term;

	CdpWordArguments(call->node, call->word, call->context->text, args, 1, 1, 1);
	term = add_term(call, CDP_TERM_TRAIT, &args[0]);
	term->aggregate = CDP_AGG_LAST;
	term->of_account = true;
	never->val.boolval.type = T_Boolean;
	never->location = -1;
	coalesce->args = list_make2(term_column(term->number, call->location), never);
	coalesce->location = call->location;
	put(call, (Node *) coalesce);
}

/*
 * How many members of the account there are for whom "members" is true.
 */
static Node *
members_column(Call *call, char *predicate, char *members, int in_segment)
{
	CdpTerm	   *term = new_term(call, CDP_TERM_TRAIT, call->location);

	term->name = predicate;
	term->aggregate = CDP_AGG_COUNT;
	term->over_members = true;
	term->members = members;
	term->in_segment = in_segment;
	return term_column(term->number, call->location);
}

/* any_member, all_members, count_members */
static void
replace_members(Call *call)
{
	ReplaceContext *context = call->context;
	bool		count = strcmp(call->word, "count_members") == 0;
	CdpWordArgument args[] = { { "predicate" } };
	char	   *predicate = "";
	char	   *members = NULL;
	int			in_segment = -1;
	List	   *segments = NIL;
	Node	   *node;

	if (call->node->args != NIL && IsA(linitial(call->node->args), NamedArgExpr))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%s() takes its predicate without a name", call->word),
				 CdpPredicateErrorPosition(context->text, call->location)));
	CdpWordArguments(call->node, call->word, context->text, args, 1, 1, count ? 0 : 1);
	if (args[0].value != NULL && CdpMembersOfSegment(args[0].value))
	{
		context->members = call->word;
		in_segment = segment_term((FuncCall *) args[0].value, context)->number;
		context->members = NULL;
		(void) CdpMembersText(context->text, call->location, NIL, &predicate);
	}
	else if (args[0].value != NULL &&
			 CdpMembersNeedSegment(call->word, args[0].value, context->text, &segments))
	{
		ReplaceContext alone = {context->text, context->timezone};
		CdpTerm    *term;
		ListCell   *lc;

		/* the form of what stands in it; it is defined by itself */
		(void) replace_walker((Node *) copyObject(args[0].value), &alone);
		context->members = call->word;
		foreach(lc, segments)
			(void) segment_term((FuncCall *) lfirst(lc), context);
		term = new_term(call, CDP_TERM_SEGMENT, call->location);
		context->members = NULL;
		(void) CdpMembersText(context->text, call->location, NIL, &predicate);
		term->name = predicate;
		term->unnamed = true;
		in_segment = term->number;
	}
	else if (args[0].value != NULL)
	{
		context->members = call->word;
		context->calls = NIL;
		(void) replace_walker(args[0].value, context);
		context->members = NULL;
		members = CdpMembersText(context->text, call->location, context->calls, &predicate);
	}
	node = members_column(call, predicate, members, in_segment);
	if (strcmp(call->word, "all_members") == 0)
		node = (Node *)
			makeBoolExpr(AND_EXPR,
						 list_make2(CdpOperationNode(">=", node, CdpNumberNode(1), call->location),
									CdpOperationNode("=", copyObject(node), members_column(call, "", NULL, -1),
											  call->location)),
						 call->location);
	else if (!count)
		node = CdpOperationNode(">=", node, CdpNumberNode(1), call->location);
	put(call, node);
}

/* Never NULL: who has said nothing has not consented. */
static void
replace_consented(Call *call)
{
	CdpWordArgument args[] = {{"purpose"}};
	A_Const    *granted = makeNode(A_Const);
	A_Expr	   *differs;

	CdpWordArguments(call->node, call->word, call->context->text, args, 1, 1, 1);
	granted->val.sval.type = T_String;
	granted->val.sval.sval = "granted";
	granted->location = -1;
	differs = makeSimpleA_Expr(AEXPR_DISTINCT, "=",
							   CdpColumnNode(CdpPurposeColumn(CdpWordName(call->word, &args[0],
																		call->context->text)),
										   args[0].location),
							   (Node *) granted, call->location);
	put(call, (Node *) makeBoolExpr(NOT_EXPR, list_make1(differs), call->location));
}

/* since, until */
static void
replace_since(Call *call)
{
	CdpWordArgument args[] = {{"trait"}};
	Node	   *now = environment_column(CDP_HIDDEN_NOW, call->location);

	CdpWordArguments(call->node, call->word, call->context->text, args, 1, 1, 1);
	(void) replace_walker(args[0].value, call->context);
	if (strcmp(call->word, "since") == 0)
		put(call, CdpOperationNode("-", now, args[0].value, call->location));
	else
		put(call, CdpOperationNode("-", args[0].value, now, call->location));
}

static void
replace_now(Call *call)
{
	CdpWordArguments(call->node, call->word, call->context->text, NULL, 0, 0, 0);
	put(call, environment_column(CDP_HIDDEN_NOW, call->location));
}

/*
 * A function that is neither of the vocabulary nor of the server may be a
 * word of the vocabulary with a slip in it.
 */
static void
check_misspelt(const Call *call)
{
	CdpNearest	nearest;

	if (CdpFunctionExists(call->node->funcname))
		return;
	CdpNearestBegin(&nearest, call->word);
	for (int i = 0; i < lengthof(vocabulary); i++)
		CdpNearestTry(&nearest, vocabulary[i].word);
	if (nearest.found != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s does not exist", call->word),
				 errhint("Perhaps you meant %s().", nearest.found),
				 CdpPredicateErrorPosition(call->context->text, call->location)));
}

/*
 * What stands before a point can only be the account.
 */
static void
check_account_misspelt(const ColumnRef *column, const char *text)
{
	CdpNearest	nearest;
	const char *table = strVal(linitial(column->fields));

	CdpNearestBegin(&nearest, table);
	CdpNearestTry(&nearest, "account");
	if (nearest.found != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" does not exist", NameListToString(column->fields)),
				 errhint("Perhaps you meant account.%s.",
						 quote_identifier(strVal(lsecond(column->fields)))),
				 CdpPredicateErrorPosition(text, column->location)));
}

/*
 * Replace a call of the vocabulary, and tell whether it is one.
 */
static bool
replace_call(FuncCall *node, ReplaceContext *context)
{
	Call		call = {node, strVal(llast(node->funcname)), node->location, context};
	const char *schema = NULL;

	if (list_length(node->funcname) > 1)
		schema = strVal(linitial(node->funcname));
	if (schema == NULL || strcmp(schema, "cdp") == 0)
	{
		for (int i = 0; i < lengthof(vocabulary); i++)
		{
			if (strcmp(vocabulary[i].word, call.word) == 0)
			{
				if (context->members != NULL)
				{
					CdpMemberCall *inner = palloc(sizeof(CdpMemberCall));

					inner->location = call.location;
					inner->node = (Node *) node;
					context->calls = lappend(context->calls, inner);
				}
				vocabulary[i].replace(&call);
				return true;
			}
		}
	}
	if (schema == NULL || strcmp(schema, "pg_catalog") == 0)
	{
		if (is_word(call.word, now_words, lengthof(now_words)))
		{
			replace_now(&call);
			return true;
		}
		if (is_word(call.word, clock_words, lengthof(clock_words)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s() cannot be used in a predicate", call.word),
					 errhint("Use now(), the instant of evaluation."),
					 CdpPredicateErrorPosition(context->text, call.location)));
	}
	if (schema == NULL && context->timezone != NULL)
		check_misspelt(&call);
	return false;
}

static bool
replace_walker(Node *node, void *arg)
{
	ReplaceContext *context = (ReplaceContext *) arg;

	if (node == NULL)
		return false;
	CHECK_FOR_INTERRUPTS();
	check_stack_depth();

	if (IsA(node, ColumnRef))
	{
		ColumnRef  *column = (ColumnRef *) node;
		Node	   *first = (Node *) linitial(column->fields);

		if (context->members != NULL && IsA(first, String) && strVal(first)[0] == '$')
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("trait \"%s\" does not exist", strVal(first)),
					 CdpPredicateErrorPosition(context->text, column->location)));
		if (list_length(column->fields) == 2 && IsA(first, String) &&
			strcmp(strVal(first), "account") == 0 && IsA(lsecond(column->fields), String))
		{
			column->fields = list_make1(makeString(psprintf("%c%c%s", CDP_HIDDEN_MARK, CDP_HIDDEN_ACCOUNT,
															strVal(lsecond(column->fields)))));
		}
		else if (list_length(column->fields) == 2 && IsA(first, String) && IsA(lsecond(column->fields), String))
			check_account_misspelt(column, context->text);
		return false;
	}
	if (IsA(node, SQLValueFunction))
	{
		SQLValueFunction *function = (SQLValueFunction *) node;

		/* the others have become hidden columns (CdpPredicateParse) */
		if (function->op <= SVFOP_LOCALTIMESTAMP_N)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the time of day cannot be used in a predicate"),
					 errhint("Use now(), the instant of evaluation."),
					 CdpPredicateErrorPosition(context->text, function->location)));
		return false;
	}
	if (IsA(node, FuncCall) && replace_call((FuncCall *) node, context))
		return false;
	return raw_expression_tree_walker(node, replace_walker, arg);
}

List *
CdpVocabularyReplace(Node *raw, const char *text, const char *timezone)
{
	ReplaceContext context = { text, timezone };

	(void) replace_walker(raw, &context);
	return context.terms;
}
