/*-------------------------------------------------------------------------
 *
 * compile.c
 *	  The parts of a definition, from text to what can be evaluated.
 *
 * IDENTIFICATION
 *	  src/traits/compile.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "cdp.h"
#include "compat.h"
#include "traits/traitset.h"

bool
CdpDefinitionWindowed(const CdpDefinition *definition)
{
	return definition->within != NULL || definition->older_than != NULL;
}

/* Columns of an expression that sees the elements of an array, one by one. */
static Node *
element_column(void *arg, const char *name, int location)
{
	Var		   *var;

	if (strcmp(name, "item") != 0)
		return CdpEntryColumn(arg, name, location);
	var = makeVar(INNER_VAR, 1, JSONBOID, -1, InvalidOid, 0);
	var->location = location;
	return (Node *) var;
}

/*
 * An expression over entries, or over elements: the latter have no canonical
 * text, their own one stands for it.
 */
static Expr *
compile_part(CdpDefinition *definition, char *text, Oid target,
			 const char *part, char **canonical)
{
	bool		each = definition->each != NULL && strcmp(part, "each") != 0;
	Expr	   *expr;

	expr = CdpTransformIn(CdpParseRaw(text), text,
						  each ? element_column : CdpEntryColumn, NULL, target,
						  psprintf("%s of trait \"%s\"", part, definition->name),
						  definition->timezone, each ? NULL : canonical);
	if (each && canonical)
		*canonical = text;
	return expr;
}

/*
 * Rules of the state and the value expression, which decide the trait's type.
 */
Expr *
CdpCompileValue(CdpDefinition *definition, CdpStateRules *rules, char **canonical)
{
	static const char *const others[] = {"announce", NULL};
	static const char *const others_of_accounts[] = {"announce", "rollup", NULL};
	Expr	   *value = NULL;
	Oid			type = InvalidOid;

	if (definition->value)
	{
		Oid			target = CdpAggregateValueType(definition->aggregate);
		int32		typmod;

		if (!OidIsValid(target) && definition->type && !definition->hidden &&
			CdpAggregateYieldsValue(definition->aggregate))
			target = CdpTypeFromName(definition->type, &typmod);
		value = compile_part(definition, definition->value, target, "value", canonical);
		type = exprType((Node *) value);
	}
	if (CDP_AGG_OF_CONSENT(definition->aggregate))
		type = BYTEAOID;
	CdpStateRulesInit(rules, definition->aggregate,
					  CdpDefinitionWindowed(definition), type);
	rules->delayed = definition->older_than != NULL;
	CdpStateRulesOptions(rules, definition->options, definition->timezone,
						 CdpOfAccounts(definition) ? others_of_accounts : others);
	CdpCheckGranularity(rules, definition->within);
	return value;
}

Expr *
CdpCompileFilter(CdpDefinition *definition, char **canonical)
{
	if (definition->filter == NULL)
		return NULL;
	return compile_part(definition, definition->filter, BOOLOID, "filter", canonical);
}

Expr *
CdpCompileEach(CdpDefinition *definition)
{
	if (definition->each == NULL)
		return NULL;
	return compile_part(definition, definition->each, JSONBOID, "each", NULL);
}

Expr *
CdpCompileDerived(CdpDefinition *definition, CdpColumnResolver resolver, void *arg)
{
	Oid			target = InvalidOid;
	int32		typmod;

	if (definition->type)
		target = CdpTypeFromName(definition->type, &typmod);
	return CdpTransformIn(CdpParseRaw(definition->expression),
						  definition->expression, resolver, arg, target,
						  CdpIsMemberExpression(definition) ? CdpMemberExpression :
						  psprintf("expression of trait \"%s\"", definition->name),
						  definition->timezone, NULL);
}

static bool
depends_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Bitmapset **depends = (Bitmapset **) context;

		*depends = bms_add_member(*depends, ((Var *) node)->varattno - 1);
		return false;
	}
	return expression_tree_walker(node, depends_walker, context);
}

/* Indexes of the traits that a derived trait's expression reads. */
Bitmapset *
CdpExpressionDepends(Expr *expr)
{
	Bitmapset  *depends = NULL;

	(void) depends_walker((Node *) expr, &depends);
	return depends;
}

/* Types whose values can be compared whatever they are. */
static bool
is_plain(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
		case TEXTOID:
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case UUIDOID:
			return true;
		default:
			return false;
	}
}

static bool
can_fail_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_List:
		case T_Var:
		case T_Const:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_CoalesceExpr:
		case T_RelabelType:
			break;
		case T_OpExpr:
		case T_NullIfExpr:
		case T_DistinctExpr:
			{
				OpExpr	   *op = (OpExpr *) node;

				/* a comparison */
				if (list_length(op->args) != 2 ||
					!is_plain(exprType(linitial(op->args))) ||
					!is_plain(exprType(lsecond(op->args))) ||
					CdpBtreeInterpretation(op->opno) == NIL)
					return true;
				break;
			}
		case T_ArrayExpr:
			/* arrays that are to be its elements may be of different lengths */
			if (((ArrayExpr *) node)->multidims)
				return true;
			break;
		case T_ScalarArrayOpExpr:
			{
				ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) node;

				/* comparisons with elements */
				if (!is_plain(exprType(linitial(op->args))) ||
					CdpBtreeInterpretation(op->opno) == NIL)
					return true;
				break;
			}
		case T_FuncExpr:
			{
				/* every integer is a number */
				Oid			function = ((FuncExpr *) node)->funcid;

				if (function != F_NUMERIC_INT2 && function != F_NUMERIC_INT4 &&
					function != F_NUMERIC_INT8)
					return true;
				break;
			}
		default:
			return true;
	}
	return expression_tree_walker(node, can_fail_walker, context);
}

/*
 * Can evaluating the expression raise no error, whatever the values?  True of
 * comparisons and what is built of them; arithmetic can overflow.
 */
bool
CdpCannotFail(Expr *expr)
{
	return !can_fail_walker((Node *) expr, NULL);
}
