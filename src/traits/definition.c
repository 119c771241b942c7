/*-------------------------------------------------------------------------
 *
 * definition.c
 *	  Making, changing and dropping definitions of traits.
 *
 *	  Every change takes the applier's lock first, writes the tables as the
 *	  extension's owner, bumps the generation, compiles what has changed and
 *	  what depends on it, brings cdp.profile_traits up to date, and has history
 *	  folded through the hook.  All of it in the caller's transaction.
 *
 *	  The id of a trait stands for what it folds.  A change of that gives the
 *	  trait a new id: states stored under the old one are dropped when their
 *	  node is next written, and never mistaken for states of the new rules.
 *
 * IDENTIFICATION
 *	  src/traits/definition.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "traits/traitset.h"

#define MAX_NAME_LENGTH		51

/* Positions of the arguments of create_trait and alter_trait. */
enum
{
	ARG_NAME, ARG_AGGREGATE, ARG_VALUE, ARG_EVENT, ARG_FILTER, ARG_EACH,
	ARG_WITHIN, ARG_EXPRESSION, ARG_TYPE, ARG_ENTITY, ARG_EMPTY,
	ARG_TIMEZONE, ARG_DESCRIPTION, ARG_OPTIONS, ARG_IF_EXISTS
};

#define SELECT_DEFINITION \
	"SELECT id, name, hidden, implicit, aggregate, key, value, event, filter," \
	" within, expression, type, entity, empty, timezone, description," \
	" options, owner, value_sql, filter_sql FROM cdp.trait_definitions"

/*
 * Names are column names and NOTIFY words: lower case, short.
 */
static void
check_name(const char *name)
{
	int			len = strlen(name);

	if (len == 0 || len > MAX_NAME_LENGTH ||
		strspn(name, "abcdefghijklmnopqrstuvwxyz_0123456789") != len ||
		(name[0] >= '0' && name[0] <= '9'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a trait: \"%s\"", name),
				 errdetail("A name has lower-case letters, digits and underscores, does not begin with a digit, and is at most %d characters long.",
						   MAX_NAME_LENGTH)));
	if (strcmp(name, "profile_id") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("the name \"%s\" is reserved", name)));
}

/*
 * Abbreviations and POSIX rules are read differently in different places;
 * region names are not.
 */
static void
check_timezone(const char *timezone)
{
	if (!(pg_strcasecmp(timezone, "UTC") == 0 ||
		  pg_strcasecmp(timezone, "GMT") == 0 ||
		  (strchr(timezone, '/') != NULL && strchr(timezone, ',') == NULL)) ||
		pg_tzset(timezone) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" is not known", timezone),
				 errhint("Use UTC or the name of a region such as Europe/Berlin.")));
}

static void
check_within(const Interval *within)
{
	if (within->month < 0 || within->day < 0 || within->time < 0 ||
		(within->month == 0 && within->day == 0 && within->time == 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"within\" must be a positive interval")));
	if (within->month > 12 * 1000 || within->day > 366 * 1000 ||
		within->time > 366 * 1000 * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"within\" must be at most 1000 years")));
}

static void
unused(bool given, const char *argument, const char *kind)
{
	if (given)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a %s trait takes no \"%s\"", kind, argument)));
}

static CdpDefinition *
definition_from_result(void)
{
	CdpDefinition *definition = (CdpDefinition *) palloc(sizeof(CdpDefinition));
	Datum		values[CDP_DEF_NATTS];
	bool		isnull[CDP_DEF_NATTS];

	heap_deform_tuple(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, values, isnull);
	CdpDefinitionFromRow(definition, values, isnull);
	return definition;
}

/*
 * The visible definition of that name, NULL when there is none; palloc'd in
 * the caller's context.
 */
static CdpDefinition *
read_definition(const char *name)
{
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};
	CdpDefinition *definition = NULL;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(SELECT_DEFINITION " WHERE name = $1 AND NOT hidden",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read definitions of traits");
	if (SPI_processed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		definition = definition_from_result();
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	return definition;
}

static CdpDefinition *
need_definition(const char *name)
{
	CdpDefinition *definition = read_definition(name);

	if (definition == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("trait \"%s\" does not exist", name)));
	return definition;
}

/*
 * Write a definition: a new row when old_id is 0, else that row gets these
 * contents, and the id of the definition, a new one when that is 0.
 */
static int32
write_definition(CdpDefinition *definition, int32 old_id)
{
	CdpUserContext saved;
	Oid			types[CDP_DEF_NATTS + 1];
	Datum		values[CDP_DEF_NATTS + 1];
	char		nulls[CDP_DEF_NATTS + 1];
	int32		id;
	bool		isnull;

	memset(nulls, ' ', sizeof(nulls));
	for (int i = 0; i < CDP_DEF_NATTS; i++)
	{
		types[i] = TEXTOID;
		values[i] = (Datum) 0;
	}
#define TEXT_VALUE(column, string) \
	do { \
		const char *s_ = (string); \
		if (s_ == NULL) \
			nulls[column] = 'n'; \
		else \
			values[column] = CStringGetTextDatum(s_); \
	} while (0)

	types[CDP_DEF_ID] = INT4OID;
	values[CDP_DEF_ID] = Int32GetDatum(definition->id);
	TEXT_VALUE(CDP_DEF_NAME, definition->name);
	types[CDP_DEF_HIDDEN] = BOOLOID;
	values[CDP_DEF_HIDDEN] = BoolGetDatum(definition->hidden);
	types[CDP_DEF_IMPLICIT] = BOOLOID;
	values[CDP_DEF_IMPLICIT] = BoolGetDatum(definition->implicit);
	TEXT_VALUE(CDP_DEF_AGGREGATE, CdpAggregateName(definition->aggregate));
	TEXT_VALUE(CDP_DEF_KEY, definition->key);
	TEXT_VALUE(CDP_DEF_VALUE, definition->value);
	TEXT_VALUE(CDP_DEF_EVENT, definition->event);
	TEXT_VALUE(CDP_DEF_FILTER, definition->filter);
	types[CDP_DEF_WITHIN] = INTERVALOID;
	if (definition->within)
		values[CDP_DEF_WITHIN] = IntervalPGetDatum(definition->within);
	else
		nulls[CDP_DEF_WITHIN] = 'n';
	TEXT_VALUE(CDP_DEF_EXPRESSION, definition->expression);
	TEXT_VALUE(CDP_DEF_TYPE, definition->type);
	TEXT_VALUE(CDP_DEF_ENTITY, definition->entity);
	TEXT_VALUE(CDP_DEF_EMPTY, definition->empty);
	TEXT_VALUE(CDP_DEF_TIMEZONE, definition->timezone);
	TEXT_VALUE(CDP_DEF_DESCRIPTION, definition->description);
	types[CDP_DEF_OPTIONS] = JSONBOID;
	if (definition->options)
		values[CDP_DEF_OPTIONS] = JsonbPGetDatum(definition->options);
	else
		values[CDP_DEF_OPTIONS] = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	TEXT_VALUE(CDP_DEF_OWNER, definition->owner);
	TEXT_VALUE(CDP_DEF_VALUE_SQL, definition->value_sql);
	TEXT_VALUE(CDP_DEF_FILTER_SQL, definition->filter_sql);
	types[CDP_DEF_NATTS] = INT4OID;
	values[CDP_DEF_NATTS] = Int32GetDatum(old_id);
#undef TEXT_VALUE

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (old_id == 0)
	{
		if (SPI_execute_with_args("INSERT INTO cdp.trait_definitions"
								  " (id, name, hidden, implicit, aggregate, key, value,"
								  " event, filter, within, expression, type, entity,"
								  " empty, timezone, description, options, owner,"
								  " value_sql, filter_sql)"
								  " SELECT d.id, COALESCE($2, '$' || d.id), $3, $4, $5, $6, $7,"
								  " $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,"
								  " $18, $19, $20 FROM (SELECT"
								  " nextval('cdp.trait_definitions_id_seq')::int AS id"
								  " WHERE $1 = 0 AND $21 = 0) d RETURNING id",
								  CDP_DEF_NATTS + 1, types, values, nulls,
								  false, 0) != SPI_OK_INSERT_RETURNING ||
			SPI_processed != 1)
			elog(ERROR, "could not write the definition of a trait");
	}
	else if (SPI_execute_with_args("UPDATE cdp.trait_definitions SET id ="
								   " CASE WHEN $1 = 0 THEN"
								   " nextval('cdp.trait_definitions_id_seq')::int"
								   " ELSE $1 END, name = $2, hidden = $3,"
								   " implicit = $4, aggregate = $5, key = $6,"
								   " value = $7, event = $8, filter = $9,"
								   " within = $10, expression = $11, type = $12,"
								   " entity = $13, empty = $14, timezone = $15,"
								   " description = $16, options = $17, owner = $18,"
								   " value_sql = $19, filter_sql = $20"
								   " WHERE id = $21 RETURNING id",
								   CDP_DEF_NATTS + 1, types, values, nulls,
								   false, 0) != SPI_OK_UPDATE_RETURNING ||
			 SPI_processed != 1)
		elog(ERROR, "could not write the definition of a trait");
	id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
									 1, &isnull));
	if (old_id != 0 && old_id != id)
	{
		Oid			id_types[] = {INT4OID, INT4OID};
		Datum		ids[] = {Int32GetDatum(old_id), Int32GetDatum(id)};

		if (SPI_execute_with_args("UPDATE cdp.definition_depends SET trait_id = $2"
								  " WHERE trait_id = $1", 2, id_types, ids, NULL,
								  false, 0) != SPI_OK_UPDATE ||
			SPI_execute_with_args("UPDATE cdp.definition_depends SET id = $2"
								  " WHERE kind = 'trait' AND id = $1", 2, id_types,
								  ids, NULL, false, 0) != SPI_OK_UPDATE ||
			SPI_execute_with_args("DELETE FROM cdp.trait_errors"
								  " WHERE trait_id = $1", 1, id_types, ids, NULL,
								  false, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not move dependencies of a trait");
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	return id;
}

/*
 * Say that definition (kind, id) reads exactly these traits.
 */
void
CdpDependsSet(const char *kind, int32 id, const List *trait_ids)
{
	CdpUserContext saved;
	Oid			types[] = {TEXTOID, INT4OID, INT4OID};
	Datum		values[3];
	ListCell   *lc;

	values[0] = CStringGetTextDatum(kind);
	values[1] = Int32GetDatum(id);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("DELETE FROM cdp.definition_depends"
							  " WHERE kind = $1 AND id = $2",
							  2, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not write dependencies of a definition");
	foreach(lc, trait_ids)
	{
		values[2] = Int32GetDatum(lfirst_int(lc));
		if (SPI_execute_with_args("INSERT INTO cdp.definition_depends"
								  " (kind, id, trait_id) VALUES ($1, $2, $3)"
								  " ON CONFLICT DO NOTHING",
								  3, types, values, NULL, false, 0) != SPI_OK_INSERT)
			elog(ERROR, "could not write dependencies of a definition");
	}
	SPI_finish();
	CdpRestoreUser(&saved);
}

/* Run a query with one int4 argument that yields ids. */
static List *
query_ids(const char *query, int32 id)
{
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(id)};
	List	   *result = NIL;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(query, 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not read dependencies");
	for (uint64 i = 0; SPI_tuptable && i < SPI_processed; i++)
	{
		bool		isnull;
		MemoryContext old = MemoryContextSwitchTo(context);

		result = lappend_int(result,
							 DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
														 SPI_tuptable->tupdesc,
														 1, &isnull)));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	return result;
}

/* The trait and all derived traits that depend on it, directly or not. */
static List *
dependants(int32 id)
{
	return query_ids("WITH RECURSIVE d(id) AS (SELECT $1 UNION SELECT x.id"
					 " FROM d JOIN cdp.definition_depends x"
					 " ON x.trait_id = d.id AND x.kind = 'trait')"
					 " SELECT id FROM d", id);
}

/*
 * Columns of a derived trait that is being defined: may declare keys that
 * have been seen but not declared.
 */
typedef struct NewDerived
{
	CdpTraitSet *set;
	const char *name;
} NewDerived;

static Node *
new_derived_column(void *arg, const char *name, int location)
{
	NewDerived *state = (NewDerived *) arg;
	bool		created;
	CdpTrait   *trait = CdpTraitResolve(state->set, name, &created);
	Var		   *var;

	if (trait == NULL)
		return NULL;
	if (strcmp(trait->name, state->name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_RECURSION),
				 errmsg("traits depend on each other in a circle"),
				 errdetail("The circle is %s -> %s.", state->name, trait->name)));
	if (trait->rules->suspended)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trait \"%s\" is suspended", trait->name)));
	var = makeVar(1, trait->index + 1, trait->type, -1, trait->collation, 0);
	var->location = location;
	return (Node *) var;
}

/* Types that a trait can have. */
static void
check_trait_type(Oid type)
{
	char		typtype = get_typtype(type);

	if (type >= FirstNormalObjectId || get_typlen(type) == -2 ||
		!(typtype == TYPTYPE_BASE || typtype == TYPTYPE_RANGE ||
		  typtype == TYPTYPE_MULTIRANGE))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a trait cannot have type %s", format_type_be(type)),
				 errhint("Traits have built-in types.")));
}

/*
 * Check a definition and fill in what follows from it: type and canonical
 * texts.  Returns the ids of the traits that a derived one reads.
 */
static List *
prepare(CdpDefinition *definition)
{
	List	   *depends = NIL;

	check_name(definition->name);
	if (definition->timezone == NULL)
		definition->timezone = pstrdup("UTC");
	check_timezone(definition->timezone);
	if (definition->within)
		check_within(definition->within);
	if (definition->entity == NULL)
		definition->entity = pstrdup("profile");
	if (strcmp(definition->entity, "account") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("traits of accounts are not supported yet")));
	if (strcmp(definition->entity, "profile") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown entity \"%s\"", definition->entity)));
	if (definition->options && !JB_ROOT_IS_OBJECT(definition->options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"options\" must be a JSON object")));

	if (definition->aggregate == CDP_AGG_DECLARED)
	{
		Oid			type;
		int32		typmod;
		int			nest_level;

		unused(definition->value != NULL, "value", "declared");
		unused(definition->event != NULL, "event", "declared");
		unused(definition->filter != NULL, "filter", "declared");
		unused(definition->within != NULL, "within", "declared");
		if (definition->type == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("trait \"%s\" needs an aggregate, an expression or a type",
							definition->name)));
		nest_level = CdpPinSettings(definition->timezone);
		type = CdpTypeFromName(definition->type, &typmod);
		definition->type = format_type_with_typemod(type, typmod);
		CdpUnpinSettings(nest_level);
		check_trait_type(type);
	}
	else if (definition->aggregate == CDP_AGG_EXPRESSION)
	{
		NewDerived	state;
		Expr	   *expr;
		Bitmapset  *read;
		int			i = -1;

		unused(definition->value != NULL, "value", "derived");
		unused(definition->event != NULL, "event", "derived");
		unused(definition->filter != NULL, "filter", "derived");
		unused(definition->within != NULL, "within", "derived");
		state.set = CdpTraitSetFresh();
		state.name = definition->name;
		expr = CdpCompileDerived(definition, new_derived_column, &state);
		check_trait_type(exprType((Node *) expr));
		definition->type = format_type_be(exprType((Node *) expr));
		read = CdpExpressionDepends(expr);
		while ((i = bms_next_member(read, i)) >= 0)
			depends = lappend_int(depends, state.set->traits[i]->id);
	}
	else
	{
		CdpStateRules rules;
		Expr	   *value;
		const char *asked = definition->type;
		bool		needs_value = definition->aggregate != CDP_AGG_COUNT &&
			definition->aggregate != CDP_AGG_EXISTS;

		if (needs_value && definition->value == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("aggregate %s needs a \"value\"",
							CdpAggregateName(definition->aggregate))));
		(void) CdpCompileFilter(definition, &definition->filter_sql);
		value = CdpCompileValue(definition, &rules, &definition->value_sql);
		(void) value;
		definition->type = format_type_be(CdpStateResultType(&rules));
		if (asked)
		{
			int32		typmod;
			Oid			type = CdpTypeFromName(asked, &typmod);

			if (type != CdpStateResultType(&rules))
				ereport(ERROR,
						(errcode(ERRCODE_DATATYPE_MISMATCH),
						 errmsg("aggregate %s has type %s, not %s",
								CdpAggregateName(definition->aggregate),
								definition->type, format_type_be(type))));
		}
	}
	return depends;
}

/*
 * After a change: make it known, compile it, show it, fold history.
 */
static void
publish(int32 id, bool folds)
{
	CdpTraitSet *set;

	CdpGenerationBump();
	set = CdpTraitSetReload(dependants(id));
	CdpProfileTraitsView(set, NULL, NULL);
	if (folds && CdpBackfillHook)
		CdpBackfillHook(list_make1_int(id), NIL);
}

/* Computed traits have states; declared and derived ones do not. */
static bool
folds_entries(const CdpDefinition *definition)
{
	return definition->aggregate != CDP_AGG_DECLARED &&
		definition->aggregate != CDP_AGG_EXPRESSION;
}

static void
create(CdpDefinition *definition)
{
	List	   *depends = prepare(definition);
	int32		id;

	definition->id = 0;
	id = write_definition(definition, 0);
	if (definition->aggregate == CDP_AGG_EXPRESSION)
		CdpDependsSet("trait", id, depends);
	publish(id, folds_entries(definition));
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool
same_within(const Interval *a, const Interval *b)
{
	return a == NULL || b == NULL ? a == b :
		a->month == b->month && a->day == b->day && a->time == b->time;
}

/* Do two definitions fold the same? */
static bool
same_rules(const CdpDefinition *a, const CdpDefinition *b)
{
	return a->aggregate == b->aggregate && same_text(a->type, b->type) &&
		same_text(a->key, b->key) &&
		same_text(a->value_sql, b->value_sql) &&
		same_text(a->event, b->event) &&
		same_text(a->filter_sql, b->filter_sql) &&
		same_within(a->within, b->within) &&
		same_text(a->timezone, b->timezone) &&
		same_text(a->expression, b->expression);
}

/* Give an existing trait a new definition. */
static void
alter(CdpDefinition *old, CdpDefinition *definition)
{
	List	   *depends;
	bool		folds = false;
	int32		id;

	if (old->aggregate == CDP_AGG_DECLARED &&
		definition->aggregate == CDP_AGG_DECLARED)
		definition->key = old->key;
	else
		definition->key = NULL;
	depends = prepare(definition);

	definition->id = old->id;
	definition->owner = GetUserNameFromId(GetUserId(), false);
	if (!same_rules(old, definition) && (folds_entries(old) || folds_entries(definition)))
	{
		definition->id = 0;
		folds = folds_entries(definition);
	}
	id = write_definition(definition, old->id);
	CdpDependsSet("trait", id, depends);
	if (CdpTraitAlteredHook)
		CdpTraitAlteredHook(old->id, id, false);
	publish(id, folds);
	if (CdpTraitAlteredHook && (!same_rules(old, definition) ||
								!same_text(old->empty, definition->empty)))
		CdpTraitAlteredHook(old->id, id, true);
}

/* Text argument; the empty text removes what was there. */
static char *
text_argument(FunctionCallInfo fcinfo, int n, char *old)
{
	text	   *value;

	if (PG_ARGISNULL(n))
		return old;
	value = PG_GETARG_TEXT_PP(n);
	return VARSIZE_ANY_EXHDR(value) == 0 ? NULL : text_to_cstring(value);
}

/*
 * The arguments as a definition; what is NULL is taken from old, if given.
 */
static CdpDefinition *
definition_from_arguments(FunctionCallInfo fcinfo, const CdpDefinition *old)
{
	CdpDefinition *definition = (CdpDefinition *) palloc0(sizeof(CdpDefinition));
	char	   *aggregate;

	if (old)
		*definition = *old;
	if (PG_ARGISNULL(ARG_NAME))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a trait needs a name")));
	definition->name = text_to_cstring(PG_GETARG_TEXT_PP(ARG_NAME));
	definition->hidden = false;
	definition->implicit = false;
	definition->owner = GetUserNameFromId(GetUserId(), false);
	definition->value_sql = definition->filter_sql = NULL;

	if (!PG_ARGISNULL(ARG_EACH))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"each\" is not supported yet")));
	definition->value = text_argument(fcinfo, ARG_VALUE, definition->value);
	definition->event = text_argument(fcinfo, ARG_EVENT, definition->event);
	definition->filter = text_argument(fcinfo, ARG_FILTER, definition->filter);
	if (!PG_ARGISNULL(ARG_WITHIN))
		definition->within = PG_GETARG_INTERVAL_P(ARG_WITHIN);
	definition->expression = text_argument(fcinfo, ARG_EXPRESSION,
										   definition->expression);
	definition->type = text_argument(fcinfo, ARG_TYPE, NULL);
	definition->entity = text_argument(fcinfo, ARG_ENTITY, definition->entity);
	if (!PG_ARGISNULL(ARG_EMPTY))
		definition->empty = text_to_cstring(PG_GETARG_TEXT_PP(ARG_EMPTY));
	definition->timezone = text_argument(fcinfo, ARG_TIMEZONE, definition->timezone);
	definition->description = text_argument(fcinfo, ARG_DESCRIPTION,
											definition->description);
	if (!PG_ARGISNULL(ARG_OPTIONS))
		definition->options = PG_GETARG_JSONB_P(ARG_OPTIONS);

	aggregate = text_argument(fcinfo, ARG_AGGREGATE, NULL);
	if (aggregate != NULL)
	{
		static const char *const later[] = {
			"unique_list", "list", "percentile", "sessions", "stddev",
			"least_frequent", "rate", "streak"
		};

		if (!PG_ARGISNULL(ARG_EXPRESSION))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a trait has an aggregate or an expression, not both")));
		for (int i = 0; i < lengthof(later); i++)
			if (strcmp(aggregate, later[i]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("aggregate \"%s\" is not supported yet", aggregate)));
		if (!CdpAggregateByName(aggregate, &definition->aggregate) ||
			definition->aggregate == CDP_AGG_DECLARED ||
			definition->aggregate == CDP_AGG_EXPRESSION)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown aggregate \"%s\"", aggregate),
					 errhint("Aggregates are count, sum, avg, min, max, first, last, unique_count, most_frequent and exists.")));
		definition->expression = NULL;
	}
	else if (!PG_ARGISNULL(ARG_EXPRESSION))
	{
		definition->aggregate = CDP_AGG_EXPRESSION;
		/* parts of a computed trait do not live on, unless asked for again */
		if (PG_ARGISNULL(ARG_VALUE))
			definition->value = NULL;
		if (PG_ARGISNULL(ARG_EVENT))
			definition->event = NULL;
		if (PG_ARGISNULL(ARG_FILTER))
			definition->filter = NULL;
		if (PG_ARGISNULL(ARG_WITHIN))
			definition->within = NULL;
	}
	else if (old == NULL)
		definition->aggregate = CDP_AGG_DECLARED;
	/* what is not asked for anew stays, unless it follows from what is */
	if (old != NULL && definition->type == NULL &&
		definition->aggregate == old->aggregate &&
		PG_ARGISNULL(ARG_VALUE) && PG_ARGISNULL(ARG_EXPRESSION))
		definition->type = old->type;
	return definition;
}

PG_FUNCTION_INFO_V1(cdp_create_trait);

/*
 * cdp.create_trait(name, aggregate, value, event, filter, each, within,
 * expression, type, entity, empty, timezone, description, options, if_exists)
 */
Datum
cdp_create_trait(PG_FUNCTION_ARGS)
{
	CdpDefinition *definition;
	CdpDefinition *old;
	char	   *if_exists = PG_ARGISNULL(ARG_IF_EXISTS) ? "error" :
	text_to_cstring(PG_GETARG_TEXT_PP(ARG_IF_EXISTS));

	if (strcmp(if_exists, "error") != 0 && strcmp(if_exists, "replace") != 0 &&
		strcmp(if_exists, "skip") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"if_exists\" must be error, replace or skip")));

	definition = definition_from_arguments(fcinfo, NULL);
	check_name(definition->name);
	CdpApplierLock();
	old = read_definition(definition->name);
	if (old == NULL)
		create(definition);
	else if (strcmp(if_exists, "skip") == 0)
		ereport(NOTICE,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trait \"%s\" already exists, skipping",
						definition->name)));
	else if (strcmp(if_exists, "replace") == 0 || old->implicit)
		alter(old, definition);
	else
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trait \"%s\" already exists", definition->name),
				 errhint("Use alter_trait(), or if_exists => 'replace'.")));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_alter_trait);

/*
 * cdp.alter_trait(name, …): arguments that are NULL stay as they are, an empty
 * text removes.
 */
Datum
cdp_alter_trait(PG_FUNCTION_ARGS)
{
	CdpDefinition *old;

	if (PG_ARGISNULL(ARG_NAME))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a trait needs a name")));
	CdpApplierLock();
	old = need_definition(text_to_cstring(PG_GETARG_TEXT_PP(ARG_NAME)));
	alter(old, definition_from_arguments(fcinfo, old));
	PG_RETURN_VOID();
}

/* Refuse when something other than derived traits depends on the trait. */
static void
check_no_dependants(CdpDefinition *definition, const char *verb, bool also_traits)
{
	CdpUserContext saved;
	Oid			types[] = {INT4OID, BOOLOID};
	Datum		values[] = {Int32GetDatum(definition->id), BoolGetDatum(also_traits)};
	char	   *list = NULL;
	MemoryContext context = CurrentMemoryContext;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT string_agg(COALESCE('trait ' || t.name,"
							  " d.kind || ' ' || d.id), ', ' ORDER BY d.kind, d.id)"
							  " FROM cdp.definition_depends d"
							  " LEFT JOIN cdp.trait_definitions t"
							  " ON t.id = d.id AND d.kind = 'trait'"
							  " WHERE d.trait_id = $1 AND (d.kind <> 'trait' OR $2)",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dependencies");
	list = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (list)
		list = MemoryContextStrdup(context, list);
	SPI_finish();
	CdpRestoreUser(&saved);
	if (list)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot %s trait \"%s\" because other definitions depend on it",
						verb, definition->name),
				 errdetail("Dependent: %s.", list),
				 errhint("Change or drop these first%s.",
						 also_traits ? ", or use cascade => true for derived traits" : "")));
}

/*
 * Replace the columns called "from" in an expression's text.  The grammar says
 * where columns are; at each place stands an identifier, quoted or not.
 */
typedef struct RenameState
{
	const char *from;
	List	   *locations;
} RenameState;

static bool
rename_walker(Node *node, void *context)
{
	RenameState *state = (RenameState *) context;

	if (node == NULL)
		return false;
	if (IsA(node, ColumnRef))
	{
		ColumnRef  *cref = (ColumnRef *) node;

		if (list_length(cref->fields) == 1 &&
			IsA(linitial(cref->fields), String) &&
			pg_strcasecmp(strVal(linitial(cref->fields)), state->from) == 0)
			state->locations = lappend_int(state->locations, cref->location);
		return false;
	}
	return raw_expression_tree_walker(node, rename_walker, context);
}

static int
compare_locations(const ListCell *a, const ListCell *b)
{
	return lfirst_int(a) - lfirst_int(b);
}

char *
CdpRenameColumn(const char *expression, const char *from, const char *to)
{
	RenameState state = {from, NIL};
	StringInfoData out;
	int			copied = 0;
	ListCell   *lc;
	Node	   *raw = CdpParseRaw(expression);

	(void) rename_walker(raw, &state);
	list_sort(state.locations, compare_locations);
	initStringInfo(&out);
	foreach(lc, state.locations)
	{
		int			start = lfirst_int(lc);
		int			end = start;

		if (expression[end] == '"')
		{
			end++;
			while (expression[end] != '\0' && expression[end] != '"')
				end++;
			end++;
		}
		else
			while (isalnum((unsigned char) expression[end]) ||
				   expression[end] == '_' || expression[end] == '$')
				end++;
		appendBinaryStringInfo(&out, expression + copied, start - copied);
		appendStringInfoString(&out, quote_identifier(to));
		copied = end;
	}
	appendStringInfoString(&out, expression + copied);
	return out.data;
}

PG_FUNCTION_INFO_V1(cdp_rename_trait);

/*
 * cdp.rename_trait(name text, new_name text): derived traits follow; segments
 * must be changed by hand, since their text names the trait.
 */
Datum
cdp_rename_trait(PG_FUNCTION_ARGS)
{
	char	   *from = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *to = text_to_cstring(PG_GETARG_TEXT_PP(1));
	CdpDefinition *definition;
	CdpTraitSet *set;
	List	   *ids;
	ListCell   *lc;

	CdpApplierLock();
	definition = need_definition(from);
	check_name(to);
	if (read_definition(to) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trait \"%s\" already exists", to)));
	check_no_dependants(definition, "rename", false);

	ids = query_ids("SELECT id FROM cdp.definition_depends"
					" WHERE trait_id = $1 AND kind = 'trait'", definition->id);
	set = CdpTraitSetFresh();
	foreach(lc, ids)
	{
		CdpTrait   *trait = CdpTraitById(set, lfirst_int(lc));
		CdpDefinition changed;

		if (trait == NULL)
			continue;
		changed = *trait->rules->definition;
		changed.expression = CdpRenameColumn(changed.expression, from, to);
		(void) write_definition(&changed, changed.id);
	}
	if (definition->aggregate == CDP_AGG_DECLARED && definition->key == NULL)
		definition->key = from;	/* the key of the calls stays what it is */
	definition->name = to;
	(void) write_definition(definition, definition->id);
	CdpGenerationBump();
	set = CdpTraitSetReload(dependants(definition->id));
	CdpProfileTraitsView(set, from, to);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_drop_trait);

/*
 * cdp.drop_trait(name text, cascade boolean)
 */
Datum
cdp_drop_trait(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		cascade = PG_GETARG_BOOL(1);
	CdpDefinition *definition;
	List	   *ids;
	ListCell   *lc;

	CdpApplierLock();
	definition = need_definition(name);
	check_no_dependants(definition, "drop", !cascade);
	ids = dependants(definition->id);
	foreach(lc, ids)
	{
		CdpDefinition dependant = {0};

		dependant.id = lfirst_int(lc);
		dependant.name = name;
		check_no_dependants(&dependant, "drop", false);
	}
	foreach(lc, ids)
	{
		(void) query_ids("DELETE FROM cdp.definition_depends"
						 " WHERE kind = 'trait' AND id = $1", lfirst_int(lc));
		(void) query_ids("DELETE FROM cdp.trait_errors WHERE trait_id = $1",
						 lfirst_int(lc));
		(void) query_ids("DELETE FROM cdp.trait_definitions WHERE id = $1",
						 lfirst_int(lc));
	}
	CdpGenerationBump();
	CdpProfileTraitsView(CdpTraitSetReload(NIL), NULL, NULL);
	PG_RETURN_VOID();
}

/*
 * A trait that a definition names: see traits.h.
 */
CdpTrait *
CdpTraitResolve(CdpTraitSet *set, const char *name, bool *created)
{
	CdpTrait   *trait = CdpTraitLookup(set, name);
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	CdpDefinition definition = {0};
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};
	char	   *key = NULL;
	char	   *json_type = NULL;
	int			nkeys = 0;
	int			ntypes = 0;
	char	   *c;
	char		base[MAX_NAME_LENGTH + 1];

	*created = false;
	if (trait != NULL)
		return trait;

	/* the key itself, or else all keys that differ only in case */
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT min(name), min(json_type),"
							  " count(DISTINCT name)::int, count(DISTINCT json_type)::int"
							  " FROM (SELECT *, rank() OVER (ORDER BY name <> $1) AS r"
							  " FROM cdp.declared_keys WHERE lower(name) = lower($1)) k"
							  " WHERE r = 1",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the keys of declared traits");
	if (SPI_processed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		isnull;

		key = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		json_type = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
		key = key ? MemoryContextStrdup(context, key) : NULL;
		json_type = json_type ? MemoryContextStrdup(context, json_type) : NULL;
		nkeys = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
											SPI_tuptable->tupdesc, 3, &isnull));
		ntypes = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 4, &isnull));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	if (key == NULL)
		return NULL;
	if (nkeys > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_COLUMN),
				 errmsg("trait name \"%s\" is ambiguous", name),
				 errdetail("Several keys of identify calls differ from it only in case."),
				 errhint("Write the name in double quotes, exactly as in the calls.")));
	if (ntypes > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INDETERMINATE_DATATYPE),
				 errmsg("trait \"%s\" has had values of several JSON types", key),
				 errhint("Declare its type, for example: SELECT cdp.create_trait('%s', type => 'text');",
						 name)));

	if (strcmp(json_type, "string") == 0)
		definition.type = "text";
	else if (strcmp(json_type, "number") == 0)
		definition.type = "numeric";
	else if (strcmp(json_type, "boolean") == 0)
		definition.type = "boolean";
	else
		definition.type = "jsonb";

	/* a name of the permitted form, not taken */
	strlcpy(base, key, sizeof(base) - 4);
	for (c = base; *c; c++)
	{
		*c = pg_ascii_tolower((unsigned char) *c);
		if (!((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9')))
			*c = '_';
	}
	if (base[0] == '\0' || (base[0] >= '0' && base[0] <= '9'))
		base[0] = '_';
	definition.name = pstrdup(base);
	for (int i = 2; read_definition(definition.name) != NULL ||
		 strcmp(definition.name, "profile_id") == 0; i++)
		definition.name = psprintf("%.48s_%d", base, i);

	definition.key = key;
	definition.implicit = true;
	definition.aggregate = CDP_AGG_DECLARED;
	definition.owner = GetUserNameFromId(GetUserId(), false);
	ereport(NOTICE,
			(errmsg("declaring trait \"%s\" with type %s, as seen in the log so far",
					definition.name, definition.type),
			 errhint("Use create_trait() to declare another type.")));
	(void) prepare(&definition);
	definition.id = write_definition(&definition, 0);
	CdpGenerationBump();
	set = CdpTraitSetReload(list_make1_int(definition.id));
	CdpProfileTraitsView(set, NULL, NULL);
	*created = true;
	return CdpTraitById(set, definition.id);
}

/*
 * Define a hidden trait, or find the one that says the same.
 */
int32
CdpHiddenTrait(CdpAggregate aggregate, const char *event, const char *value,
			   const char *filter, const char *within, const char *timezone,
			   bool *created)
{
	CdpDefinition definition = {0};
	CdpTraitSet *set;
	CdpStateRules rules;

	CdpApplierLock();
	definition.name = "$";
	definition.hidden = true;
	definition.aggregate = aggregate;
	definition.event = event ? pstrdup(event) : NULL;
	definition.value = value ? pstrdup(value) : NULL;
	definition.filter = filter ? pstrdup(filter) : NULL;
	definition.timezone = pstrdup(timezone ? timezone : "UTC");
	definition.entity = "profile";
	definition.owner = GetUserNameFromId(GetUserId(), false);
	check_timezone(definition.timezone);
	if (within)
	{
		int			nest_level = CdpPinSettings(NULL);

		definition.within = DatumGetIntervalP(DirectFunctionCall3(interval_in,
																  CStringGetDatum(within),
																  ObjectIdGetDatum(InvalidOid),
																  Int32GetDatum(-1)));
		CdpUnpinSettings(nest_level);
		check_within(definition.within);
	}
	(void) CdpCompileFilter(&definition, &definition.filter_sql);
	(void) CdpCompileValue(&definition, &rules, &definition.value_sql);
	definition.type = format_type_be(CdpStateResultType(&rules));

	set = CdpTraitSetFresh();
	for (int i = 0; i < set->ntraits; i++)
	{
		CdpTrait   *trait = set->traits[i];

		if (trait->hidden && !trait->rules->suspended &&
			strcmp(trait->rules->definition->owner, definition.owner) == 0 &&
			same_rules(trait->rules->definition, &definition))
		{
			*created = false;
			return trait->id;
		}
	}
	definition.name = NULL;
	definition.id = write_definition(&definition, 0);
	CdpGenerationBump();
	(void) CdpTraitSetReload(list_make1_int(definition.id));
	*created = true;
	return definition.id;
}

/*
 * Delete hidden traits that no definition reads.
 */
void
CdpHiddenTraitsPrune(void)
{
	List	   *gone;
	ListCell   *lc;

	CdpApplierLock();
	gone = query_ids("DELETE FROM cdp.trait_definitions t WHERE t.hidden"
					 " AND $1 = 0 AND NOT EXISTS (SELECT FROM"
					 " cdp.definition_depends d WHERE d.trait_id = t.id)"
					 " RETURNING t.id", 0);
	foreach(lc, gone)
		(void) query_ids("DELETE FROM cdp.trait_errors WHERE trait_id = $1",
						 lfirst_int(lc));
	if (gone != NIL)
	{
		CdpGenerationBump();
		(void) CdpTraitSetReload(NIL);
	}
}
