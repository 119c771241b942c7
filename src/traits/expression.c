/*-------------------------------------------------------------------------
 *
 * expression.c
 *	  SQL expressions in definitions: parse, check, plan, print.
 *
 *	  A definition is text.  PostgreSQL's own grammar reads it (as PL/pgSQL
 *	  lets it read an expression), its own analysis resolves operators and
 *	  functions, and hooks resolve the columns.  What comes out must be a pure
 *	  function of those columns, because the same definition is evaluated
 *	  again years later by recomputation and must agree.  Hence:
 *
 *	  - names resolve in pg_catalog alone (search_path is pinned, pg_temp last);
 *	  - only built-in functions and those of this extension, and only immutable
 *		ones, except stable ones that depend on nothing but TimeZone, DateStyle
 *		or the locale, which the definition pins;
 *	  - nothing that reads a table or the clock.
 *
 *	  Texts arrive as function arguments, so error positions are reported as
 *	  positions in an internal query, the text itself.
 *
 * IDENTIFICATION
 *	  src/traits/expression.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_func.h"
#include "parser/parse_node.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "cdp.h"
#include "compat.h"
#include "traits/traitset.h"

/* Longer texts are refused: nobody writes them. */
#define CDP_MAX_EXPRESSION	1048576

typedef struct ErrorSource
{
	const char *text;
	const char *what;			/* NULL: unknown yet */
} ErrorSource;

typedef struct ResolverState
{
	CdpColumnResolver resolver;
	void	   *arg;
} ResolverState;

/* What the check of a transformed tree needs to know. */
typedef struct CheckState
{
	ParseState *pstate;
	List	   *clock_words;	/* locations of literals such as 'now' */
	Node	   *node;			/* node whose functions are being looked at */
} CheckState;

/*
 * Stable functions that depend only on what a definition pins: TimeZone,
 * DateStyle, IntervalStyle, locale (or on none of it, but are labelled stable
 * because they call output functions of any type).  In strcmp order.
 */
static const char *const pinned_functions[] = {
	"anytextcat", "array_in", "array_out", "array_to_json",
	"array_to_string", "concat", "concat_ws", "convert", "convert_from",
	"convert_to", "date", "date_cmp_timestamptz", "date_eq_timestamptz",
	"date_ge_timestamptz", "date_gt_timestamptz", "date_in",
	"date_le_timestamptz", "date_lt_timestamptz", "date_ne_timestamptz",
	"date_out", "date_part", "date_trunc", "extract", "format",
	"interval_in", "interval_out", "interval_pl_timestamptz",
	"json_build_array", "json_build_object", "jsonb_build_array",
	"jsonb_build_object", "jsonb_path_exists_tz", "jsonb_path_match_tz",
	"jsonb_path_query_array_tz", "jsonb_path_query_first_tz", "length",
	"make_timestamptz", "multirange_in", "multirange_out", "overlaps",
	"quote_literal", "quote_nullable", "range_in", "range_out", "textanycat",
	"time", "time_in", "timestamp", "timestamp_cmp_timestamptz",
	"timestamp_eq_timestamptz", "timestamp_ge_timestamptz",
	"timestamp_gt_timestamptz", "timestamp_in", "timestamp_le_timestamptz",
	"timestamp_lt_timestamptz", "timestamp_ne_timestamptz", "timestamp_out",
	"timestamptz", "timestamptz_cmp_date", "timestamptz_cmp_timestamp",
	"timestamptz_eq_date", "timestamptz_eq_timestamp", "timestamptz_ge_date",
	"timestamptz_ge_timestamp", "timestamptz_gt_date",
	"timestamptz_gt_timestamp", "timestamptz_in", "timestamptz_le_date",
	"timestamptz_le_timestamp", "timestamptz_lt_date",
	"timestamptz_lt_timestamp", "timestamptz_mi_interval",
	"timestamptz_ne_date", "timestamptz_ne_timestamp", "timestamptz_out",
	"timestamptz_pl_interval", "timetz", "timetz_in", "timezone", "to_char",
	"to_date", "to_json", "to_jsonb", "to_number", "to_timestamp"
};

/* Functions that read the clock: named in the error instead of "volatile". */
static const char *const clock_functions[] = {
	"age", "clock_timestamp", "now", "statement_timestamp", "timeofday",
	"transaction_timestamp"
};

/*
 * Errors of scanner, grammar and analysis carry a position in their source
 * text; turn it into a position of an internal query.
 */
static void
expression_error_callback(void *arg)
{
	ErrorSource *source = (ErrorSource *) arg;
	int			position = geterrposition();

	if (position > 0)
	{
		const char *text = source->text;

		if (source->what == CdpMemberExpression)
			text = CdpMemberPart(text, &position);
		errposition(0);
		internalerrposition(position);
		internalerrquery(text);
	}
	if (source->what)
		errcontext("%s", source->what);
}

static void
push_error_source(ErrorContextCallback *callback, ErrorSource *source)
{
	callback->callback = expression_error_callback;
	callback->arg = source;
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

static void
pin(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Settings under which definitions are read and evaluated.  Returns the GUC
 * nest level to give to CdpUnpinSettings; an error undoes it too.
 */
int
CdpPinSettings(const char *timezone)
{
	int			nest_level = NewGUCNestLevel();

	pin("search_path", "pg_catalog, pg_temp");
	pin("TimeZone", timezone ? timezone : "UTC");
	pin("DateStyle", "ISO, YMD");
	pin("IntervalStyle", "postgres");
	pin("extra_float_digits", "1");
	pin("bytea_output", "hex");
	pin("standard_conforming_strings", "on");
	pin("lc_monetary", "C");
	pin("lc_numeric", "C");
	pin("lc_time", "C");
	pin("xmlbinary", "base64");
	return nest_level;
}

void
CdpUnpinSettings(int nest_level)
{
	AtEOXact_GUC(false, nest_level);
}

/*
 * Read one expression and nothing else.
 */
Node *
CdpParseRaw(const char *text)
{
	ErrorContextCallback callback;
	ErrorSource source = {text, NULL};
	ParseState *pstate;
	List	   *parsed;
	SelectStmt *select;
	ResTarget  *target;
	int			nest_level;
	int			location = -1;

	if (strlen(text) > CDP_MAX_EXPRESSION)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("expression is too long"),
				 errdetail("An expression may have at most %d bytes.",
						   CDP_MAX_EXPRESSION)));

	push_error_source(&callback, &source);
	nest_level = NewGUCNestLevel();
	pin("standard_conforming_strings", "on");
	parsed = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	CdpUnpinSettings(nest_level);

	pstate = make_parsestate(NULL);
	pstate->p_sourcetext = text;

	select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;
	if (list_length(parsed) != 1 || !IsA(select, SelectStmt))
		elog(ERROR, "unexpected result of parsing an expression");
	if (list_length(select->targetList) > 1)
		location = ((ResTarget *) lsecond(select->targetList))->location;
	if (list_length(select->targetList) != 1 ||
		select->distinctClause || select->intoClause || select->fromClause ||
		select->whereClause || select->groupClause || select->havingClause ||
		select->windowClause || select->valuesLists || select->sortClause ||
		select->limitOffset || select->limitCount || select->lockingClause ||
		select->withClause || select->op != SETOP_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("exactly one expression is expected"),
				 errhint("Write an expression as in a select list, without FROM, WHERE or other clauses."),
				 parser_errposition(pstate, location)));
	target = linitial_node(ResTarget, select->targetList);
	if (target->name || target->indirection ||
		(IsA(target->val, ColumnRef) &&
		 IsA(llast(((ColumnRef *) target->val)->fields), A_Star)))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("exactly one expression is expected"),
				 parser_errposition(pstate, target->location)));

	free_parsestate(pstate);
	error_context_stack = callback.previous;
	return target->val;
}

/*
 * Does a literal contain one of the words that the date input functions
 * replace by the current time?
 */
bool
CdpHasClockWord(const char *value)
{
	static const char *const words[] = {"now", "today", "tomorrow", "yesterday"};
	char	   *lower = pstrdup(value);
	char	   *c;

	for (c = lower; *c; c++)
		*c = pg_ascii_tolower((unsigned char) *c);
	for (int i = 0; i < lengthof(words); i++)
		if (strstr(lower, words[i]))
			return true;
	return false;
}

/*
 * A function that does not exist may be one with a slip in its name.
 */
static void
check_misspelt(CheckState *state, const FuncCall *call)
{
	CdpNearest	nearest;

	if (CdpFunctionExists(call->funcname))
		return;
	CdpNearestBegin(&nearest, strVal(linitial(call->funcname)));
	CdpNearestTryFunctions(&nearest);
	if (nearest.found != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s does not exist", strVal(linitial(call->funcname))),
				 errhint("Perhaps you meant %s().", nearest.found),
				 parser_errposition(state->pstate, call->location)));
}

/*
 * Look at the raw tree for what must not even be analysed, and remember the
 * literals that may mean the current time.
 */
static bool
check_raw_walker(Node *node, void *arg)
{
	CheckState *state = (CheckState *) arg;

	if (node == NULL)
		return false;
	check_stack_depth();
	if (IsA(node, SubLink))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("definitions cannot contain subqueries"),
				 errdetail("A definition sees one entry or one profile, not tables."),
				 parser_errposition(state->pstate,
									((SubLink *) node)->location)));
	if (IsA(node, ParamRef))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("definitions cannot contain parameters"),
				 parser_errposition(state->pstate,
									((ParamRef *) node)->location)));
	if (IsA(node, FuncCall) && list_length(((FuncCall *) node)->funcname) == 1)
		check_misspelt(state, (FuncCall *) node);
	if (IsA(node, A_Const) && !((A_Const *) node)->isnull &&
		IsA(&((A_Const *) node)->val, String) &&
		CdpHasClockWord(strVal(&((A_Const *) node)->val)))
		state->clock_words = lappend_int(state->clock_words,
										 ((A_Const *) node)->location);
	return raw_expression_tree_walker(node, check_raw_walker, arg);
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp((const char *) a, *(const char *const *) b);
}

static bool
name_in(const char *name, const char *const *list, int n)
{
	return bsearch(name, list, n, sizeof(char *), compare_names) != NULL;
}

static bool
is_reg_type(Oid type)
{
	switch (type)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
			return true;
		default:
			return false;
	}
}

static Oid
type_namespace(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	result = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Types are as restricted as functions: built-in ones and the extension's.
 */
static void
check_type(CheckState *state, Node *node, Oid type)
{
	if (OidIsValid(type) && (is_reg_type(type) ||
							 (type >= FirstNormalObjectId &&
							  type_namespace(type) != CdpSchemaOid())))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("type %s cannot be used in a definition",
						format_type_be(type)),
				 errhint("Definitions use built-in types only."),
				 parser_errposition(state->pstate, exprLocation(node))));
}

static bool
check_function(Oid funcid, void *context)
{
	CheckState *state = (CheckState *) context;
	HeapTuple	tuple;
	Form_pg_proc proc;
	const char *name;
	bool		builtin;

	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	name = NameStr(proc->proname);
	builtin = funcid < FirstNormalObjectId;

	if (!builtin &&
		(proc->pronamespace != CdpSchemaOid() ||
		 proc->provolatile != PROVOLATILE_IMMUTABLE))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("function %s cannot be used in a definition",
						format_procedure(funcid)),
				 errdetail("It is not built in, so its meaning may change."),
				 errhint("Definitions use built-in functions and operators only."),
				 parser_errposition(state->pstate,
									exprLocation(state->node))));
	if (builtin && proc->provolatile != PROVOLATILE_IMMUTABLE)
	{
		if (name_in(name, clock_functions, lengthof(clock_functions)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("function %s cannot be used here: it reads the clock",
							format_procedure(funcid)),
					 errhint("Give a trait a window with \"within\", or compare with the time in a segment."),
					 parser_errposition(state->pstate,
										exprLocation(state->node))));
		if (proc->provolatile == PROVOLATILE_VOLATILE)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("function %s cannot be used in a definition",
							format_procedure(funcid)),
					 errdetail("It is volatile: its result does not follow from its arguments."),
					 parser_errposition(state->pstate,
										exprLocation(state->node))));
		if (!name_in(name, pinned_functions, lengthof(pinned_functions)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("function %s cannot be used in a definition",
							format_procedure(funcid)),
					 errdetail("Its result depends on more than its arguments and the time zone."),
					 parser_errposition(state->pstate,
										exprLocation(state->node))));
	}
	ReleaseSysCache(tuple);
	return false;
}

/*
 * Refuse what a pure function of the columns cannot contain.
 */
static bool
check_walker(Node *node, void *arg)
{
	CheckState *state = (CheckState *) arg;
	const char *refused = NULL;

	if (node == NULL)
		return false;
	check_stack_depth();
	switch (nodeTag(node))
	{
		case T_Aggref:
		case T_GroupingFunc:
			refused = "aggregate functions";
			break;
		case T_WindowFunc:
			refused = "window functions";
			break;
		case T_SubLink:
		case T_SubPlan:
		case T_Query:
			refused = "subqueries";
			break;
		case T_Param:
			refused = "parameters";
			break;
		case T_NextValueExpr:
			refused = "sequences";
			break;
		case T_XmlExpr:
			refused = "XML expressions";
			break;
		case T_SQLValueFunction:
			if (((SQLValueFunction *) node)->op <= SVFOP_LOCALTIMESTAMP_N)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("the current time cannot be used here"),
						 errhint("Give a trait a window with \"within\", or compare with the time in a segment."),
						 parser_errposition(state->pstate,
											exprLocation(node))));
			refused = "session values";
			break;
		case T_CoerceToDomain:
		case T_ConvertRowtypeExpr:
			check_type(state, node, exprType(node));
			refused = "domains and row types";
			break;
		case T_FuncExpr:
			if (((FuncExpr *) node)->funcretset)
				refused = "set-returning functions";
			check_type(state, node, exprType(node));
			break;
		case T_OpExpr:
			if (((OpExpr *) node)->opretset)
				refused = "set-returning functions";
			check_type(state, node, exprType(node));
			break;
		case T_Const:
			/* a text search configuration that comes with the server is one for good */
			if (((Const *) node)->consttype == REGCONFIGOID &&
				!((Const *) node)->constisnull &&
				DatumGetObjectId(((Const *) node)->constvalue) < FirstNormalObjectId)
				break;
			check_type(state, node, exprType(node));
			if (((Const *) node)->location >= 0 &&
				list_member_int(state->clock_words,
								((Const *) node)->location))
			{
				Oid			type = ((Const *) node)->consttype;
				Oid			element = get_element_type(type);
				char		category;
				bool		preferred;

				if (!OidIsValid(element) && type_is_range(type))
					element = get_range_subtype(type);
				get_type_category_preferred(OidIsValid(element) ? element : type,
											&category, &preferred);
				if (category == TYPCATEGORY_DATETIME)
					ereport(ERROR,
							(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							 errmsg("the current time cannot be used here"),
							 errhint("Write the date itself."),
							 parser_errposition(state->pstate,
												((Const *) node)->location)));
			}
			break;
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_ArrayExpr:
			check_type(state, node, exprType(node));
			break;
		case T_CollateExpr:
			if (((CollateExpr *) node)->collOid >= FirstNormalObjectId)
				refused = "user-defined collations";
			break;
		default:
			break;
	}
	if (refused)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("definitions cannot contain %s", refused),
				 parser_errposition(state->pstate, exprLocation(node))));

	state->node = node;
	(void) check_functions_in_node(node, check_function, state);
	return expression_tree_walker(node, check_walker, arg);
}

/*
 * A text that is turned into a time when an entry is looked at must not say
 * 'now' either: let it pass through a function that refuses that.
 */
static Node *
guard_times_mutator(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	node = expression_tree_mutator(node, guard_times_mutator, context);
	if (IsA(node, CoerceViaIO))
	{
		CoerceViaIO *coerce = (CoerceViaIO *) node;
		Oid			type = exprType((Node *) coerce->arg);
		Oid			argtypes[] = {TEXTOID};

		if ((type == TEXTOID || type == VARCHAROID) &&
			TypeCategory(coerce->resulttype) == TYPCATEGORY_DATETIME)
			coerce->arg = (Expr *)
				makeFuncExpr(LookupFuncName(list_make2(makeString("cdp"),
													   makeString("absolute_time")),
											1, argtypes, false),
							 TEXTOID, list_make1(coerce->arg),
							 DEFAULT_COLLATION_OID, DEFAULT_COLLATION_OID,
							 COERCE_EXPLICIT_CALL);
	}
	return node;
}

PG_FUNCTION_INFO_V1(cdp_absolute_time);

/*
 * cdp.absolute_time(text) returns text: its argument, unless that names a time
 * relative to the clock.
 */
Datum
cdp_absolute_time(PG_FUNCTION_ARGS)
{
	text	   *value = PG_GETARG_TEXT_PP(0);

	if (CdpHasClockWord(text_to_cstring(value)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
				 errmsg("time \"%s\" is relative to the clock",
						text_to_cstring(value))));
	PG_RETURN_TEXT_P(value);
}

#define COLUMNS_OF_ENTRY \
	"Columns of an entry are id, message_id, source, type, event, identifiers, properties, context, occurred_at and received_at."

/* Those that users may see. */
static const struct
{
	const char *name;
	AttrNumber	attno;
	Oid			type;
}			entry_columns[] = {
	{"id", CDP_EVENTS_ID + 1, INT8OID},
	{"message_id", CDP_EVENTS_MESSAGE_ID + 1, TEXTOID},
	{"source", CDP_EVENTS_SOURCE + 1, TEXTOID},
	{"type", CDP_EVENTS_TYPE + 1, TEXTOID},
	{"event", CDP_EVENTS_EVENT + 1, TEXTOID},
	{"identifiers", CDP_EVENTS_IDENTIFIERS + 1, InvalidOid},
	{"properties", CDP_EVENTS_PROPERTIES + 1, JSONBOID},
	{"context", CDP_EVENTS_CONTEXT + 1, JSONBOID},
	{"occurred_at", CDP_EVENTS_OCCURRED_AT + 1, TIMESTAMPTZOID},
	{"received_at", CDP_EVENTS_RECEIVED_AT + 1, TIMESTAMPTZOID}
};

/*
 * Columns are what the resolver knows, and nothing else.
 */
static Node *
resolve_column(ParseState *pstate, ColumnRef *cref)
{
	ResolverState *state = (ResolverState *) pstate->p_ref_hook_state;
	Node	   *field = (Node *) linitial(cref->fields);
	Node	   *result;

	if (list_length(cref->fields) != 1 || !IsA(field, String))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" does not exist",
						NameListToString(cref->fields)),
				 errhint("Columns are written without a table name."),
				 parser_errposition(pstate, cref->location)));
	result = state->resolver(state->arg, strVal(field), cref->location);
	if (result == NULL)
	{
		CdpNearest	nearest;

		CdpNearestBegin(&nearest, strVal(field));
		for (int i = 0; state->resolver == CdpEntryColumn && i < lengthof(entry_columns); i++)
			CdpNearestTry(&nearest, entry_columns[i].name);
		if (state->resolver == CdpNewDerivedColumn)
			nearest.found = CdpNewDerivedNearest(state->arg, strVal(field));
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" does not exist", strVal(field)),
				 nearest.found != NULL && state->resolver != CdpEntryColumn ?
				 errhint("Perhaps you meant %s.", nearest.found) :
				 nearest.found != NULL ?
				 errhint("Perhaps you meant %s. " COLUMNS_OF_ENTRY, nearest.found) :
				 state->resolver == CdpEntryColumn ? errhint(COLUMNS_OF_ENTRY) :
				 errhint("No trait has that name, and no identify call has had such a key. Declare it, for example: SELECT cdp.create_trait('%s', type => 'text');",
						 strVal(field)),
				 parser_errposition(pstate, cref->location)));
	}
	return result;
}

/*
 * Analysis and checks; what comes out can be printed, but is not planned.
 * The caller has pinned the settings.
 */
static Expr *
transform(Node *raw, const char *text, CdpColumnResolver resolver, void *arg,
		  Oid target_type, const char *what)
{
	ErrorContextCallback callback;
	ErrorSource source = {text, what};
	ResolverState state = {resolver, arg};
	CheckState	check = {0};
	ParseState *pstate;
	Node	   *expr;
	Oid			type;

	push_error_source(&callback, &source);
	pstate = make_parsestate(NULL);
	pstate->p_sourcetext = text;
	pstate->p_pre_columnref_hook = resolve_column;
	pstate->p_ref_hook_state = &state;
	check.pstate = pstate;

	(void) check_raw_walker(raw, &check);
	expr = transformExpr(pstate, raw, EXPR_KIND_SELECT_TARGET);

	type = exprType(expr);
	if (target_type == BOOLOID)
		expr = coerce_to_boolean(pstate, expr, what ? what : "definition");
	else if (OidIsValid(target_type) && type != target_type)
	{
		Node	   *coerced;

		coerced = coerce_to_target_type(pstate, expr, type, target_type, -1,
										COERCION_ASSIGNMENT,
										COERCE_IMPLICIT_CAST, -1);
		if (coerced == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("expression is of type %s, but %s is needed",
							format_type_be(type), format_type_be(target_type)),
					 errhint("Cast the expression, for example (properties->>'amount')::numeric."),
					 parser_errposition(pstate, exprLocation(expr))));
		expr = coerced;
	}
	else if (type == UNKNOWNOID)
		expr = coerce_type(pstate, expr, type, TEXTOID, -1,
						   COERCION_IMPLICIT, COERCE_IMPLICIT_CAST, -1);
	assign_expr_collations(pstate, expr);
	(void) check_walker(expr, &check);
	expr = guard_times_mutator(expr, NULL);

	if (get_typtype(exprType(expr)) == TYPTYPE_PSEUDO)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("expression has pseudo-type %s",
						format_type_be(exprType(expr))),
				 parser_errposition(pstate, exprLocation(expr))));

	free_parsestate(pstate);
	error_context_stack = callback.previous;
	return (Expr *) expr;
}

/*
 * As CdpTransform, under the settings of a definition with that time zone
 * (literals such as '2024-01-01'::timestamptz are read under it).  When
 * canonical is not NULL it receives the expression's canonical text over the
 * columns of cdp.events.
 */
Expr *
CdpTransformIn(Node *raw, const char *text, CdpColumnResolver resolver,
			   void *arg, Oid target_type, const char *what,
			   const char *timezone, char **canonical)
{
	int			nest_level = CdpPinSettings(timezone);
	Expr	   *expr;

	expr = transform(raw, text, resolver, arg, target_type, what);
	if (canonical)
		*canonical = CdpDeparseEntryExpression(expr);
	expr = expression_planner(expr);
	CdpUnpinSettings(nest_level);
	return expr;
}

Expr *
CdpTransform(Node *raw, const char *text, CdpColumnResolver resolver,
			 void *arg, Oid target_type, const char *what)
{
	return CdpTransformIn(raw, text, resolver, arg, target_type, what, NULL,
						  NULL);
}

static bool
check_settings_function(Oid funcid, void *context)
{
	if (func_volatile(funcid) != PROVOLATILE_IMMUTABLE)
		return true;
	switch (funcid)
	{
			/* labelled immutable, yet they look at a setting */
		case F_FLOAT4OUT:
		case F_FLOAT8OUT:
		case F_BYTEAOUT:
			return true;
		default:
			return false;
	}
}

static bool
needs_settings_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, check_settings_function, NULL))
		return true;
	return expression_tree_walker(node, needs_settings_walker, context);
}

/*
 * Does the result depend on the settings that CdpPinSettings pins?
 */
bool
CdpNeedsSettings(Expr *expr)
{
	return expr != NULL && needs_settings_walker((Node *) expr, NULL);
}

/*
 * Columns of an entry: those that users may see, as Vars over CdpEntry.values.
 */
Node *
CdpEntryColumn(void *arg, const char *name, int location)
{
	for (int i = 0; i < lengthof(entry_columns); i++)
	{
		if (strcmp(name, entry_columns[i].name) == 0)
		{
			Oid			type = entry_columns[i].type;
			Var		   *var;

			if (!OidIsValid(type))
				type = get_array_type(CdpTypeOid("identifier"));
			var = makeVar(1, entry_columns[i].attno, type, -1,
						  get_typcollation(type), 0);
			var->location = location;
			return (Node *) var;
		}
	}
	return NULL;
}

/*
 * Canonical text: as the server prints a view's expression, everything that is
 * not in pg_catalog qualified.
 */
char *
CdpDeparseEntryExpression(Expr *expr)
{
	List	   *context;
	char	   *result;
	int			nest_level = NewGUCNestLevel();

	pin("search_path", "pg_catalog, pg_temp");
	context = deparse_context_for("e", CdpRelationOid("events"));
	result = deparse_expression((Node *) expr, context, false, false);
	CdpUnpinSettings(nest_level);
	return result;
}
