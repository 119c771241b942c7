/*-------------------------------------------------------------------------
 *
 * resolve.c
 *	  What a definition means by a name: traits, keys that have been seen and
 *	  are declared by being named, and the hidden traits behind the terms of
 *	  segments.
 *
 * IDENTIFICATION
 *	  src/traits/resolve.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "sensitive.h"
#include "traits/traitset.h"

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

/*
 * The definition that a name gets which is none of a trait, but the key of a
 * declared one: that key, and the one type that it has had.  False when no
 * entry has brought such a key.
 */
static bool
declared_definition(const char *name, CdpDefinition *definition)
{
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};
	char	   *key = NULL;
	char	   *json_type = NULL;
	int			nkeys = 0;
	int			ntypes = 0;

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
		return false;
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

	memset(definition, 0, sizeof(CdpDefinition));
	if (strcmp(json_type, "string") == 0)
		definition->type = "text";
	else if (strcmp(json_type, "number") == 0)
		definition->type = "numeric";
	else if (strcmp(json_type, "boolean") == 0)
		definition->type = "boolean";
	else
		definition->type = "jsonb";
	definition->name = key;
	definition->key = key;
	definition->implicit = true;
	definition->aggregate = CDP_AGG_DECLARED;
	definition->timezone = "UTC";
	definition->entity = "profile";
	definition->owner = GetUserNameFromId(GetUserId(), false);
	return true;
}

/*
 * See traits.h.
 */
CdpDefinition *
CdpTransientDeclared(const char *name)
{
	CdpDefinition *definition = (CdpDefinition *) palloc(sizeof(CdpDefinition));

	return declared_definition(name, definition) ? definition : NULL;
}

/*
 * See traits.h.
 */
const char *
CdpTransientKey(const CdpDefinition *definition)
{
	return definition->aggregate == CDP_AGG_DECLARED ? definition->key : NULL;
}

const char *
CdpDeclaredKey(const CdpTrait *trait)
{
	if (trait->aggregate != CDP_AGG_DECLARED)
		return NULL;
	return trait->rules->definition->key ? trait->rules->definition->key : trait->name;
}

/* A trait by any of the names that a definition may use for it. */
CdpTrait *
CdpTraitLookup(CdpTraitSet *set, const char *name)
{
	CdpTrait   *found = CdpTraitByName(set, name);

	for (int i = 0; found == NULL && i < set->ntraits; i++)
	{
		CdpTrait   *trait = set->traits[i];

		if (!trait->hidden && trait->rules->definition->key != NULL &&
			strcmp(trait->rules->definition->key, name) == 0)
			found = trait;
	}
	for (int i = 0; found == NULL && i < set->ntraits; i++)
	{
		CdpTrait   *trait = set->traits[i];

		/* names of traits are in lower case, so that at most one fits */
		if (!trait->hidden && pg_strcasecmp(trait->name, name) == 0)
			found = trait;
	}
	return found;
}

/* A hidden one by its name, which only hidden definitions may use. */
CdpTrait *
CdpTraitByHiddenName(CdpTraitSet *set, const char *name)
{
	for (int i = 0; i < set->ntraits && name[0] == '$'; i++)
		if (set->traits[i]->hidden && strcmp(set->traits[i]->name, name) == 0)
			return set->traits[i];
	return NULL;
}

/*
 * A trait that a definition names: see traits.h.
 */
CdpTrait *
CdpTraitResolve(CdpTraitSet *set, const char *name, bool *created)
{
	CdpTrait   *trait = CdpTraitLookup(set, name);
	CdpDefinition definition;
	char	   *key;
	char	   *c;
	char		base[CDP_MAX_NAME + 1];

	*created = false;
	CdpMustSee(CDP_SENSITIVE_KIND, name);
	CdpMustSee(set->accounts ? CDP_SENSITIVE_ACCOUNT_TRAIT : CDP_SENSITIVE_TRAIT, name);
	if (trait != NULL && CdpAnythingHidden() && CdpTraitHidden(set, trait))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("trait \"%s\" is sensitive", trait->name),
				 errhint("Who may execute cdp.see_sensitive() may use it.")));
	if (trait != NULL || set->accounts)
		return trait;
	if (!declared_definition(name, &definition))
		return NULL;
	key = definition.key;

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
	for (int i = 2; CdpDefinitionRead(definition.name, "profile") != NULL ||
		 strcmp(definition.name, "profile_id") == 0; i++)
		definition.name = psprintf("%.48s_%d", base, i);

	ereport(NOTICE,
			(errmsg("declaring trait \"%s\" with type %s, as seen in the log so far",
					definition.name, definition.type),
			 errhint("Use create_trait() to declare another type.")));
	(void) CdpDefinitionPrepare(&definition);
	definition.id = CdpDefinitionWrite(&definition, 0);
	CdpGenerationBump();
	set = CdpTraitSetReload(list_make1_int(definition.id));
	CdpTraitsView(set, NULL, NULL);
	*created = true;
	return CdpTraitById(set, definition.id);
}

/*
 * The hidden trait that says the same and has missed no entries, 0 if there is
 * none.  Asked of the table, not of the set: a predicate may need hundreds of
 * new ones, and the set is compiled once when all are there.  whole: one that is
 * being built is of no use.
 */
static int32
same_hidden(const CdpDefinition *definition, bool whole)
{
	static const char *const query =
		"SELECT t.id FROM cdp.trait_definitions t"
		" WHERE t.hidden AND t.id <> ALL (ARRAY(SELECT b.id FROM cdp.backfills b"
		" WHERE b.kind = 'trait' AND (b.replaces IS NOT NULL OR $9)))"
		" AND t.owner = $1 AND t.aggregate = $2 AND t.timezone = $3"
		" AND t.event IS NOT DISTINCT FROM $4 AND t.key IS NOT DISTINCT FROM $8"
		" AND t.value_sql IS NOT DISTINCT FROM $5"
		" AND t.filter_sql IS NOT DISTINCT FROM $6"
		" AND t.within::text IS NOT DISTINCT FROM $7::interval::text"
		" AND t.id NOT IN (SELECT m.id FROM cdp.missed_traits m)"
		" ORDER BY t.id LIMIT 1";
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INTERVALOID,
		TEXTOID, BOOLOID};
	const char *texts[] = {
		definition->owner, CdpAggregateName(definition->aggregate), definition->timezone,
		definition->event, definition->value_sql, definition->filter_sql
	};
	Datum		values[9] = {0};
	char		nulls[10] = "         ";
	CdpUserContext saved;
	int32		id = 0;
	bool		isnull;

	for (int i = 0; i < lengthof(texts); i++)
	{
		if (texts[i] != NULL)
			values[i] = CStringGetTextDatum(texts[i]);
		else
			nulls[i] = 'n';
	}
	if (definition->within != NULL)
		values[6] = IntervalPGetDatum(definition->within);
	else
		nulls[6] = 'n';
	if (definition->key != NULL)
		values[7] = CStringGetTextDatum(definition->key);
	else
		nulls[7] = 'n';
	values[8] = BoolGetDatum(whole);

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(query, lengthof(types), types, values, nulls,
							  false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a hidden trait");
	if (SPI_processed > 0)
		id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
										 SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	CdpRestoreUser(&saved);
	return id;
}

/*
 * The definition of a hidden trait, checked.
 */
static void
hidden_definition(CdpDefinition *definition, CdpAggregate aggregate, const char *key,
				  const char *event, const char *value, const char *filter,
				  const char *within, const char *timezone)
{
	CdpStateRules rules;

	memset(definition, 0, sizeof(CdpDefinition));
	definition->name = "$";
	definition->hidden = true;
	definition->aggregate = aggregate;
	definition->key = key ? pstrdup(key) : NULL;
	definition->event = event ? pstrdup(event) : NULL;
	definition->value = value ? pstrdup(value) : NULL;
	definition->filter = filter ? pstrdup(filter) : NULL;
	definition->timezone = pstrdup(timezone ? timezone : "UTC");
	definition->entity = "profile";
	definition->owner = GetUserNameFromId(GetUserId(), false);
	CdpCheckTimezone(definition->timezone);
	if (within)
	{
		int			nest_level = CdpPinSettings(NULL);

		definition->within = DatumGetIntervalP(DirectFunctionCall3(interval_in,
																   CStringGetDatum(within),
																   ObjectIdGetDatum(InvalidOid),
																   Int32GetDatum(-1)));
		CdpUnpinSettings(nest_level);
		CdpCheckWithin("within", definition->within);
	}
	/* of sequences: as long as lists may be */
	if (aggregate == CDP_AGG_LIST)
		definition->options =
			DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											   CStringGetDatum(psprintf("{\"size\": %d}",
																		CDP_MAX_LIST_SIZE))));
	(void) CdpCompileFilter(definition, &definition->filter_sql);
	(void) CdpCompileValue(definition, &rules, &definition->value_sql);
	definition->type = format_type_be(CdpStateResultType(&rules));
}

/*
 * Define a hidden trait, or find the one that says the same.
 */
int32
CdpHiddenTrait(CdpAggregate aggregate, const char *key, const char *event,
			   const char *value, const char *filter, const char *within,
			   const char *timezone, bool *created)
{
	CdpDefinition definition;

	CdpApplierLock();
	hidden_definition(&definition, aggregate, key, event, value, filter, within, timezone);
	definition.id = same_hidden(&definition, false);
	*created = definition.id == 0;
	if (*created)
	{
		definition.name = NULL;
		definition.id = CdpDefinitionWrite(&definition, 0);
		CdpGenerationBump();
	}
	return definition.id;
}

/*
 * See traits.h.
 */
int32
CdpHiddenTraitFind(CdpAggregate aggregate, const char *key, const char *event,
				   const char *value, const char *filter, const char *within,
				   const char *timezone, CdpDefinition **transient)
{
	CdpDefinition *definition = (CdpDefinition *) palloc(sizeof(CdpDefinition));

	hidden_definition(definition, aggregate, key, event, value, filter, within, timezone);
	definition->id = same_hidden(definition, true);
	*transient = definition->id == 0 ? definition : NULL;
	return definition->id;
}
