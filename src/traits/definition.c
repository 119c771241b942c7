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
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "traits/traitset.h"

/* Positions of the arguments of create_trait and alter_trait. */
enum
{
	ARG_NAME, ARG_AGGREGATE, ARG_VALUE, ARG_EVENT, ARG_FILTER, ARG_EACH,
	ARG_WITHIN, ARG_EXPRESSION, ARG_TYPE, ARG_ENTITY, ARG_EMPTY,
	ARG_TIMEZONE, ARG_DESCRIPTION, ARG_OPTIONS, ARG_IF_EXISTS
};

/* The last three; alter_trait has no if_exists before them. */
#define ARG_NEWER_THAN	(PG_NARGS() - 3)
#define ARG_OLDER_THAN	(PG_NARGS() - 2)
#define ARG_SINCE		(PG_NARGS() - 1)

/*
 * Names are column names and NOTIFY words: lower case, short.
 */
static void
check_name(const char *name)
{
	int			len = strlen(name);

	if (len == 0 || len > CDP_MAX_NAME ||
		strspn(name, "abcdefghijklmnopqrstuvwxyz_0123456789") != len ||
		(name[0] >= '0' && name[0] <= '9'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a trait: \"%s\"", name),
				 errdetail("A name has lower-case letters, digits and underscores, does not begin with a digit, and is at most %d characters long.",
						   CDP_MAX_NAME)));
	if (strcmp(name, "profile_id") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("the name \"%s\" is reserved", name)));
}

/*
 * Abbreviations and POSIX rules are read differently in different places;
 * region names are not.
 */
void
CdpCheckTimezone(const char *timezone)
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

void
CdpCheckWithin(const char *argument, const Interval *within)
{
	if (within->month < 0 || within->day < 0 || within->time < 0 ||
		(within->month == 0 && within->day == 0 && within->time == 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be a positive interval", argument)));
	if (within->month > 12 * 1000 || within->day > 366 * 1000 ||
		within->time > 366 * 1000 * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be at most 1000 years", argument)));
}

static void
unused(bool given, const char *argument, const char *kind)
{
	if (given)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a %s trait takes no \"%s\"", kind, argument)));
}

/* Declared and derived traits look at no entries. */
static void
unused_parts(const CdpDefinition *definition, const char *kind)
{
	unused(definition->value != NULL, "value", kind);
	unused(definition->event != NULL, "event", kind);
	unused(definition->filter != NULL, "filter", kind);
	unused(definition->each != NULL, "each", kind);
	unused(definition->within != NULL, "within", kind);
	unused(definition->older_than != NULL, "older_than", kind);
	unused(definition->has_since, "since", kind);
	if (definition->options &&
		JB_ROOT_COUNT(DatumGetJsonbP(DirectFunctionCall2(jsonb_delete,
														 JsonbPGetDatum(definition->options),
														 CStringGetTextDatum("announce")))) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a %s trait takes no option but \"announce\"", kind)));
}

static CdpDefinition *
need_definition(const char *name, const char *entity)
{
	CdpDefinition *definition = CdpDefinitionRead(name, entity);

	if (definition == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("trait \"%s\" does not exist", name)));
	return definition;
}

/*
 * Columns of a derived trait that is being defined: may declare keys that
 * have been seen but not declared.
 */
Node *
CdpNewDerivedColumn(void *arg, const char *name, int location)
{
	CdpNewDerived *state = (CdpNewDerived *) arg;
	bool		created;
	CdpTrait   *trait = state->hidden ? CdpTraitByHiddenName(state->set, name) : NULL;
	Var		   *var;

	if (trait == NULL)
		trait = CdpTraitResolve(state->set, name, &created);
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

const char *
CdpNewDerivedNearest(void *arg, const char *name)
{
	CdpTraitSet *set = ((CdpNewDerived *) arg)->set;
	CdpNearest	nearest;

	CdpNearestBegin(&nearest, name);
	for (int i = 0; i < set->ntraits; i++)
		if (!set->traits[i]->hidden)
			CdpNearestTry(&nearest, set->traits[i]->name);
	return nearest.found;
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
List *
CdpDefinitionPrepare(CdpDefinition *definition)
{
	List	   *depends = NIL;

	if (!definition->hidden)
		check_name(definition->name);
	if (definition->timezone == NULL)
		definition->timezone = pstrdup("UTC");
	CdpCheckTimezone(definition->timezone);
	if (definition->within)
		CdpCheckWithin("within", definition->within);
	if (definition->older_than)
		CdpCheckWithin("older_than", definition->older_than);
	if (definition->within && definition->older_than &&
		DatumGetBool(DirectFunctionCall2(interval_ge,
										 IntervalPGetDatum(definition->older_than),
										 IntervalPGetDatum(definition->within))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"older_than\" must be shorter than \"within\"")));
	if (definition->has_since && TIMESTAMP_NOT_FINITE(definition->since))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"since\" must be a finite time")));
	if (definition->entity == NULL)
		definition->entity = pstrdup("profile");
	if (strcmp(definition->entity, "profile") != 0 && !CdpOfAccounts(definition))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown entity \"%s\"", definition->entity),
				 errhint("Entities are profile and account.")));
	if (CdpOfAccounts(definition) && strcmp(definition->name, "account_id") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("the name \"%s\" is reserved", definition->name)));
	if (CdpOfAccounts(definition) && CdpCommonOptions(definition->options) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("changes of traits of accounts are not announced"),
				 errhint("Make a segment of accounts; its passages are.")));
	if (definition->options && !JB_ROOT_IS_OBJECT(definition->options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"options\" must be a JSON object")));

	if (definition->aggregate == CDP_AGG_DECLARED)
	{
		Oid			type;
		int32		typmod;
		int			nest_level;

		unused_parts(definition, "declared");
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
		CdpNewDerived state;
		Expr	   *expr;
		Bitmapset  *read;
		int			i = -1;

		unused_parts(definition, "derived");
		state.set = CdpOfAccounts(definition) ? CdpAccountTraitSetFresh() : CdpTraitSetFresh();
		state.name = definition->name;
		state.hidden = definition->hidden;
		expr = CdpCompileDerived(definition, CdpNewDerivedColumn, &state);
		check_trait_type(exprType((Node *) expr));
		definition->type = format_type_be(exprType((Node *) expr));
		read = CdpExpressionDepends(expr);
		while ((i = bms_next_member(read, i)) >= 0)
			depends = lappend_int(depends, state.set->traits[i]->id);
	}
	else if (CdpOverMembers(definition))
		CdpPrepareOverMembers(definition);
	else
	{
		CdpStateRules rules;
		Expr	   *value;
		const char *asked = definition->type;

		if (CdpAggregateNeedsValue(definition->aggregate) && definition->value == NULL &&
			!CDP_AGG_OF_CONSENT(definition->aggregate))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("aggregate %s needs a \"value\"",
							CdpAggregateName(definition->aggregate))));
		(void) CdpCompileEach(definition);
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
 * Does a trait change at midnights, which has to be announced?  Then profiles
 * need timers that they may not have.
 */
static bool
announces_midnights(CdpTraitSet *set, const CdpTrait *trait)
{
	Bitmapset  *todo = bms_make_singleton(trait->index);
	int			index;

	if (!trait->announce)
		return false;
	while ((index = bms_next_member(todo, -1)) >= 0)
	{
		CdpTrait   *read = set->traits[index];

		todo = bms_del_member(todo, index);
		if (read->aggregate == CDP_AGG_RATE || read->aggregate == CDP_AGG_STREAK)
			return true;
		todo = bms_add_members(todo, read->depends);
	}
	return false;
}

/*
 * After a change: make it known, compile it, show it, fold history.
 */
static void
publish(const CdpDefinition *definition, int32 id, bool folds)
{
	CdpTraitSet *set;
	bool		everybody;

	CdpGenerationBump();
	set = CdpTraitSetReloadOf(CdpOfAccounts(definition), CdpDefinitionDependants(id));
	CdpTraitsView(set, NULL, NULL);
	/* one that is being built is announced when it is whole */
	everybody = !CdpTraitById(set, id)->building &&
		announces_midnights(set, CdpTraitById(set, id));
	everybody |= !CdpOfAccounts(definition) && CdpFeedsAccounts(id) != NIL;
	if ((folds || everybody) && CdpBackfillHook)
		CdpBackfillHook(folds ? list_make1_int(id) : NIL, NIL, everybody);
}

/* Computed traits have states; declared and derived ones do not. */
static bool
folds_entries(const CdpDefinition *definition)
{
	return definition->aggregate != CDP_AGG_DECLARED &&
		definition->aggregate != CDP_AGG_EXPRESSION;
}

/*
 * Begin to build a trait beside what comes, and tell who has asked for it.
 */
static void
build(const char *name, int32 id, int32 replaces, bool fresh)
{
	CdpBackfillBegin("trait", id, replaces, fresh);
	if (name[0] == '$')
		return;					/* of a purpose, which tells it */
	ereport(NOTICE,
			(errmsg("the history of trait \"%s\" is folded by the applier", name),
			 replaces != 0 ? errdetail("Until that is done, the trait stays as it was.") :
			 errdetail("Until that is done, the trait has no values, and what depends on it waits."),
			 errhint("See cdp.progress; cdp.wait_backfill() waits for it.")));
}

static void
create(CdpDefinition *definition)
{
	List	   *depends = CdpDefinitionPrepare(definition);
	bool		later = folds_entries(definition) && CdpBackfillLater();
	int32		id;

	definition->id = 0;
	if (definition->hidden)
		definition->name = NULL;
	id = CdpDefinitionWrite(definition, 0);
	if (later)
		build(definition->name ? definition->name : "$", id, 0, true);
	if (definition->aggregate == CDP_AGG_EXPRESSION)
		CdpDependsSet("trait", id, depends);
	CdpMemberTraitDepends(definition, 0, id);
	publish(definition, id, folds_entries(definition) && !later);
}

/*
 * Give an existing trait a new definition.  pending: its version that is being
 * built, NULL if there is none.  anew: fold history also when it says the same,
 * because entries were left out while the trait was suspended.
 */
static void
alter(CdpDefinition *old, CdpDefinition *pending, CdpDefinition *definition, bool anew)
{
	List	   *depends;
	List	   *over = NIL;
	ListCell   *lc;
	bool		folds = false;
	bool		later = false;
	bool		fresh = false;
	int32		id;

	if (old->aggregate == CDP_AGG_DECLARED &&
		definition->aggregate == CDP_AGG_DECLARED)
		definition->key = old->key;
	else if (!definition->hidden)
		definition->key = NULL;
	depends = CdpDefinitionPrepare(definition);

	definition->id = old->id;
	if (!definition->hidden)
		definition->owner = GetUserNameFromId(GetUserId(), false);
	if (pending != NULL)
	{
		if (CdpDefinitionSame(pending, definition))
		{
			definition->id = pending->id;
			definition->name = pending->name;
			definition->hidden = true;
			(void) CdpDefinitionWrite(definition, pending->id);
			CdpGenerationBump();
			(void) CdpTraitSetReloadOf(CdpOfAccounts(old), list_make1_int(pending->id));
			return;
		}
		CdpVersionDrop(pending->id);
	}
	if ((anew || !CdpDefinitionSame(old, definition)) &&
		(folds_entries(old) || folds_entries(definition)))
	{
		bool		accounts = CdpOfAccounts(old);
		bool		building = CdpTraitById(accounts ? CdpAccountTraitSetFresh() :
											CdpTraitSetFresh(), old->id)->building;

		folds = folds_entries(definition);
		later = folds && CdpBackfillLater();
		if (later && !building && CdpSameText(old->type, definition->type))
		{
			char	   *name = definition->name;

			definition->id = 0;
			definition->name = NULL;
			definition->hidden = true;
			id = CdpDefinitionWrite(definition, 0);
			build(name, id, old->id, false);
			CdpMemberTraitDepends(definition, 0, id);
			CdpGenerationBump();
			(void) CdpTraitSetReloadOf(accounts, list_make1_int(id));
			if (accounts)
				CdpHiddenTraitsPrune();
			return;
		}
		/* what has no values, or none that fit, is built in its place */
		definition->id = 0;
		fresh = CdpBackfillIsFresh(old->id);
		(void) CdpBackfillEnd("trait", old->id);
	}
	id = CdpDefinitionWrite(definition, old->id);
	if (later)
	{
		build(definition->name, id, 0, fresh);
		/* as long as it has no values, traits of accounts over it have none */
		over = CdpOfAccounts(old) ? NIL : CdpFeedsAccounts(id);
		foreach(lc, over)
			CdpBackfillBegin("trait", lfirst_int(lc), 0, false);
	}
	CdpDependsSet("trait", id, depends);
	CdpMemberTraitDepends(definition, old->id, id);
	if (CdpTraitAlteredHook)
		CdpTraitAlteredHook(old->id, id, false);
	publish(definition, id, folds && !later);
	if (CdpTraitAlteredHook && (anew || !CdpDefinitionSame(old, definition) ||
								!CdpSameText(old->empty, definition->empty)))
		CdpTraitAlteredHook(old->id, id, true);
	foreach(lc, over)
		if (CdpTraitAlteredHook)
			CdpTraitAlteredHook(lfirst_int(lc), lfirst_int(lc), true);
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

/* Interval argument; one of zero removes what was there. */
static Interval *
interval_argument(FunctionCallInfo fcinfo, int n, Interval *old, bool altering)
{
	Interval   *value;

	if (PG_ARGISNULL(n))
		return old;
	value = PG_GETARG_INTERVAL_P(n);
	if (altering && value->month == 0 && value->day == 0 && value->time == 0)
		return NULL;
	return value;
}

/* Parts of a computed trait do not live on, unless asked for again. */
static void
forget_parts(FunctionCallInfo fcinfo, CdpDefinition *definition)
{
	if (PG_ARGISNULL(ARG_VALUE))
		definition->value = NULL;
	if (PG_ARGISNULL(ARG_EVENT))
		definition->event = NULL;
	if (PG_ARGISNULL(ARG_FILTER))
		definition->filter = NULL;
	if (PG_ARGISNULL(ARG_EACH))
		definition->each = NULL;
	if (PG_ARGISNULL(ARG_WITHIN) && PG_ARGISNULL(ARG_NEWER_THAN))
		definition->within = NULL;
	if (PG_ARGISNULL(ARG_OLDER_THAN))
		definition->older_than = NULL;
	if (PG_ARGISNULL(ARG_SINCE))
		definition->has_since = false;
	if (PG_ARGISNULL(ARG_OPTIONS))
		definition->options = CdpCommonOptions(definition->options);
}

/*
 * The arguments as a definition; what is NULL is taken from old, if given.
 * An empty text, an interval of zero, or "since" -infinity then removes the
 * part.
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

	definition->value = text_argument(fcinfo, ARG_VALUE, definition->value);
	definition->event = text_argument(fcinfo, ARG_EVENT, definition->event);
	definition->filter = text_argument(fcinfo, ARG_FILTER, definition->filter);
	definition->each = text_argument(fcinfo, ARG_EACH, definition->each);
	if (!PG_ARGISNULL(ARG_WITHIN) && !PG_ARGISNULL(ARG_NEWER_THAN))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"within\" and \"newer_than\" are the same: give one of them")));
	definition->within = interval_argument(fcinfo, PG_ARGISNULL(ARG_WITHIN) ?
										   ARG_NEWER_THAN : ARG_WITHIN,
										   definition->within, old != NULL);
	definition->older_than = interval_argument(fcinfo, ARG_OLDER_THAN,
											   definition->older_than, old != NULL);
	if (!PG_ARGISNULL(ARG_SINCE))
	{
		definition->since = PG_GETARG_TIMESTAMPTZ(ARG_SINCE);
		definition->has_since = old == NULL || !TIMESTAMP_IS_NOBEGIN(definition->since);
	}
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
		if (!PG_ARGISNULL(ARG_EXPRESSION))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a trait has an aggregate or an expression, not both")));
		if (!CdpAggregateByName(aggregate, &definition->aggregate) ||
			definition->aggregate == CDP_AGG_DECLARED ||
			definition->aggregate == CDP_AGG_EXPRESSION ||
			CDP_AGG_OF_CONSENT(definition->aggregate))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown aggregate \"%s\"", aggregate),
					 errhint("Aggregates are %s.", CdpAggregateNames())));
		definition->expression = NULL;
		if (old != NULL && definition->aggregate != old->aggregate &&
			PG_ARGISNULL(ARG_OPTIONS))
			definition->options = CdpLastingOptions(old->options);
	}
	else if (!PG_ARGISNULL(ARG_EXPRESSION))
	{
		definition->aggregate = CDP_AGG_EXPRESSION;
		forget_parts(fcinfo, definition);
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

/*
 * The version of a trait that is being built, under its name.
 */
static CdpDefinition *
read_pending(CdpDefinition *old)
{
	int32		id = CdpVersionOf(old->id);

	return id == 0 ? NULL : CdpDefinitionReadId(id);
}

/*
 * Without its owner, or not to be compiled; or it was, and entries came.
 */
static bool
misses_entries(const CdpDefinition *definition)
{
	CdpTrait   *trait = CdpTraitById(CdpOfAccounts(definition) ? CdpAccountTraitSetFresh() :
									 CdpTraitSetFresh(), definition->id);

	return !OidIsValid(get_role_oid(definition->owner, true)) ||
		(trait != NULL && trait->rules->suspended) ||
		CdpDefinitionIds("SELECT id FROM cdp.missed_traits WHERE id = $1", definition->id) != NIL;
}

void
CdpDefinitionCreate(CdpDefinition *definition)
{
	create(definition);
}

void
CdpDefinitionAlter(CdpDefinition *old, CdpDefinition *definition)
{
	alter(old, read_pending(old), definition, misses_entries(old));
}

PG_FUNCTION_INFO_V1(cdp_create_trait);

/*
 * cdp.create_trait(name, aggregate, value, event, filter, each, within,
 * expression, type, entity, empty, timezone, description, options, if_exists,
 * newer_than, older_than, since)
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
	old = CdpDefinitionRead(definition->name, definition->entity ? definition->entity : "profile");
	if (old == NULL)
		create(definition);
	else if (strcmp(if_exists, "skip") == 0)
		ereport(NOTICE,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trait \"%s\" already exists, skipping",
						definition->name)));
	else if (strcmp(if_exists, "replace") == 0 || old->implicit)
		alter(old, read_pending(old), definition, misses_entries(old));
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
	CdpDefinition *pending;

	if (PG_ARGISNULL(ARG_NAME))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a trait needs a name")));
	CdpApplierLock();
	old = need_definition(text_to_cstring(PG_GETARG_TEXT_PP(ARG_NAME)),
						  PG_ARGISNULL(ARG_ENTITY) ? NULL :
						  text_to_cstring(PG_GETARG_TEXT_PP(ARG_ENTITY)));
	pending = read_pending(old);
	/* what is not asked for stays as it was asked for last */
	alter(old, pending, definition_from_arguments(fcinfo, pending ? pending : old),
		  misses_entries(old));
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
	if (SPI_execute_with_args("SELECT string_agg(COALESCE(h.name, 'trait ' || t.name,"
							  " d.kind || ' ' || COALESCE(s.name, d.id::text)), ', ' ORDER BY d.kind, d.id)"
							  " FROM cdp.definition_depends d"
							  " LEFT JOIN cdp.hidden_traits h ON h.id = d.id AND d.kind = 'trait'"
							  " LEFT JOIN cdp.trait_definitions t"
							  " ON t.id = d.id AND d.kind = 'trait'"
							  " LEFT JOIN cdp.segment_definitions s"
							  " ON s.id = d.id AND d.kind IN ('segment', 'segment version')"
							  " WHERE d.trait_id = $1 AND (d.kind <> 'trait' OR $2) AND s.hidden IS NOT TRUE",
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

static char *
name_argument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a trait needs a name")));
	return text_to_cstring(PG_GETARG_TEXT_PP(n));
}

PG_FUNCTION_INFO_V1(cdp_rename_trait);

/*
 * cdp.rename_trait(name text, new_name text, entity text): derived traits
 * follow; segments must be changed by hand, since their text names the trait.
 */
Datum
cdp_rename_trait(PG_FUNCTION_ARGS)
{
	char	   *from = name_argument(fcinfo, 0);
	char	   *to = name_argument(fcinfo, 1);
	CdpDefinition *definition;
	CdpTraitSet *set;
	List	   *ids;
	ListCell   *lc;

	CdpApplierLock();
	definition = need_definition(from, text_argument(fcinfo, 2, NULL));
	check_name(to);
	if (CdpDefinitionRead(to, definition->entity) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trait \"%s\" already exists", to)));
	check_no_dependants(definition, "rename", false);

	ids = CdpDefinitionIds("SELECT id FROM cdp.definition_depends"
					" WHERE trait_id = $1 AND kind = 'trait'", definition->id);
	set = CdpOfAccounts(definition) ? CdpAccountTraitSetFresh() : CdpTraitSetFresh();
	foreach(lc, ids)
	{
		CdpTrait   *trait = CdpTraitById(set, lfirst_int(lc));
		CdpDefinition changed;

		if (trait == NULL)
			continue;
		changed = *trait->rules->definition;
		changed.expression = CdpRenameColumn(changed.expression, from, to);
		if (changed.hidden)
			CdpMemberTraitRename(changed.id, from, to);
		(void) CdpDefinitionWrite(&changed, changed.id);
	}
	if (definition->aggregate == CDP_AGG_DECLARED && definition->key == NULL)
		definition->key = from;	/* the key of the calls stays what it is */
	definition->name = to;
	(void) CdpDefinitionWrite(definition, definition->id);
	CdpGenerationBump();
	set = CdpTraitSetReloadOf(CdpOfAccounts(definition), CdpDefinitionDependants(definition->id));
	CdpTraitsView(set, from, to);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_drop_trait);

/*
 * cdp.drop_trait(name text, cascade boolean, entity text)
 */
Datum
cdp_drop_trait(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo, 0);
	bool		cascade = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	CdpDefinition *definition;
	List	   *ids;
	ListCell   *lc;

	CdpApplierLock();
	definition = need_definition(name, text_argument(fcinfo, 2, NULL));
	check_no_dependants(definition, "drop", !cascade);
	ids = CdpDefinitionDependants(definition->id);
	foreach(lc, ids)
	{
		CdpDefinition dependant = {0};

		dependant.id = lfirst_int(lc);
		dependant.name = name;
		check_no_dependants(&dependant, "drop", false);
	}
	foreach(lc, ids)
	{
		int32		version = CdpVersionOf(lfirst_int(lc));

		if (version != 0)
			CdpVersionDrop(version);
		(void) CdpBackfillEnd("trait", lfirst_int(lc));
		(void) CdpDefinitionIds("DELETE FROM cdp.definition_depends"
						 " WHERE kind IN ('trait', 'account') AND id = $1", lfirst_int(lc));
		(void) CdpDefinitionIds("DELETE FROM cdp.trait_errors WHERE trait_id = $1",
						 lfirst_int(lc));
		(void) CdpDefinitionIds("DELETE FROM cdp.trait_definitions WHERE id = $1",
						 lfirst_int(lc));
	}
	CdpGenerationBump();
	CdpTraitsView(CdpTraitSetReloadOf(CdpOfAccounts(definition), NIL), NULL, NULL);
	if (CdpOfAccounts(definition))
		CdpHiddenTraitsPrune();
	PG_RETURN_VOID();
}
