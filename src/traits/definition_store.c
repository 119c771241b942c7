/*-------------------------------------------------------------------------
 *
 * definition_store.c
 *	  Rows of cdp.trait_definitions and cdp.definition_depends: read, write,
 *	  compare, find what depends on what.
 *
 * IDENTIFICATION
 *	  src/traits/definition_store.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "parser/parse_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "compat.h"
#include "traits/traitset.h"

#define SELECT_DEFINITION \
	"SELECT id, name, hidden, implicit, aggregate, key, value, event, filter," \
	" within, expression, type, entity, empty, timezone, description," \
	" options, owner, value_sql, filter_sql, each, older_than, since" \
	" FROM cdp.trait_definitions"

Oid
CdpTypeFromName(const char *name, int32 *typmod)
{
	Oid			type;

	CdpParseType(name, &type, typmod);
	return type;
}

static char *
text_column(Datum *values, bool *isnull, int column)
{
	return isnull[column] ? NULL : TextDatumGetCString(values[column]);
}

static Interval *
interval_column(Datum *values, bool *isnull, int column)
{
	Interval   *result;

	if (isnull[column])
		return NULL;
	result = (Interval *) palloc(sizeof(Interval));
	*result = *DatumGetIntervalP(values[column]);
	return result;
}

void
CdpDefinitionFromRow(CdpDefinition *definition, Datum *values, bool *isnull)
{
	char	   *aggregate = text_column(values, isnull, CDP_DEF_AGGREGATE);

	memset(definition, 0, sizeof(CdpDefinition));
	definition->id = DatumGetInt32(values[CDP_DEF_ID]);
	definition->name = text_column(values, isnull, CDP_DEF_NAME);
	definition->hidden = DatumGetBool(values[CDP_DEF_HIDDEN]);
	definition->implicit = DatumGetBool(values[CDP_DEF_IMPLICIT]);
	if (!CdpAggregateByName(aggregate, &definition->aggregate))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("trait \"%s\" has an unknown aggregate \"%s\"",
						definition->name, aggregate)));
	definition->key = text_column(values, isnull, CDP_DEF_KEY);
	definition->value = text_column(values, isnull, CDP_DEF_VALUE);
	definition->event = text_column(values, isnull, CDP_DEF_EVENT);
	definition->filter = text_column(values, isnull, CDP_DEF_FILTER);
	definition->within = interval_column(values, isnull, CDP_DEF_WITHIN);
	definition->expression = text_column(values, isnull, CDP_DEF_EXPRESSION);
	definition->type = text_column(values, isnull, CDP_DEF_TYPE);
	definition->entity = text_column(values, isnull, CDP_DEF_ENTITY);
	definition->empty = text_column(values, isnull, CDP_DEF_EMPTY);
	definition->timezone = text_column(values, isnull, CDP_DEF_TIMEZONE);
	definition->description = text_column(values, isnull, CDP_DEF_DESCRIPTION);
	if (!isnull[CDP_DEF_OPTIONS])
		definition->options = DatumGetJsonbPCopy(values[CDP_DEF_OPTIONS]);
	definition->owner = text_column(values, isnull, CDP_DEF_OWNER);
	definition->value_sql = text_column(values, isnull, CDP_DEF_VALUE_SQL);
	definition->filter_sql = text_column(values, isnull, CDP_DEF_FILTER_SQL);
	definition->each = text_column(values, isnull, CDP_DEF_EACH);
	definition->older_than = interval_column(values, isnull, CDP_DEF_OLDER_THAN);
	definition->has_since = !isnull[CDP_DEF_SINCE];
	if (definition->has_since)
		definition->since = DatumGetTimestampTz(values[CDP_DEF_SINCE]);
}

bool
CdpOfAccounts(const CdpDefinition *definition)
{
	return strcmp(definition->entity, "account") == 0;
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

static CdpDefinition *
read_definition(const char *query, int nargs, Oid *types, Datum *values)
{
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	CdpDefinition *definition = NULL;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(query, nargs, types, values, NULL, false, 1) != SPI_OK_SELECT)
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

/*
 * The visible definition of that name, NULL when there is none; palloc'd in
 * the caller's context.
 */
CdpDefinition *
CdpDefinitionRead(const char *name, const char *entity)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name), CStringGetTextDatum(entity ? entity : "")};

	return read_definition(SELECT_DEFINITION " WHERE name = $1 AND NOT hidden"
						   " AND $2 IN ('', entity) ORDER BY entity <> 'profile'",
						   2, types, values);
}

/* The same of any definition, by its id. */
CdpDefinition *
CdpDefinitionReadId(int32 id)
{
	Oid			type = INT4OID;
	Datum		value = Int32GetDatum(id);

	return read_definition(SELECT_DEFINITION " WHERE id = $1", 1, &type, &value);
}

/*
 * Write a definition: a new row when old_id is 0, else that row gets these
 * contents, and the id of the definition, a new one when that is 0.
 */
int32
CdpDefinitionWrite(CdpDefinition *definition, int32 old_id)
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
	TEXT_VALUE(CDP_DEF_EACH, definition->each);
	types[CDP_DEF_OLDER_THAN] = INTERVALOID;
	if (definition->older_than)
		values[CDP_DEF_OLDER_THAN] = IntervalPGetDatum(definition->older_than);
	else
		nulls[CDP_DEF_OLDER_THAN] = 'n';
	types[CDP_DEF_SINCE] = TIMESTAMPTZOID;
	values[CDP_DEF_SINCE] = TimestampTzGetDatum(definition->since);
	if (!definition->has_since)
		nulls[CDP_DEF_SINCE] = 'n';
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
								  " value_sql, filter_sql, each, older_than, since)"
								  " SELECT d.id, COALESCE($2, '$' || d.id), $3, $4, $5, $6, $7,"
								  " $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,"
								  " $18, $19, $20, $21, $22, $23 FROM (SELECT"
								  " nextval('cdp.trait_definitions_id_seq')::int AS id"
								  " WHERE $1 = 0 AND $24 = 0) d RETURNING id",
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
								   " value_sql = $19, filter_sql = $20,"
								   " each = $21, older_than = $22, since = $23"
								   " WHERE id = $24 RETURNING id",
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
List *
CdpDefinitionIds(const char *query, int32 id)
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
List *
CdpDefinitionDependants(int32 id)
{
	return CdpDefinitionIds("WITH RECURSIVE d(id) AS (SELECT $1 UNION SELECT x.id"
					 " FROM d JOIN cdp.definition_depends x"
					 " ON x.trait_id = d.id AND x.kind = 'trait')"
					 " SELECT id FROM d", id);
}

/* The traits of accounts that are over it, or over one that is derived from it. */
List *
CdpFeedsAccounts(int32 id)
{
	return CdpDefinitionIds("WITH RECURSIVE d(id) AS (SELECT $1 UNION SELECT x.id"
							" FROM d JOIN cdp.definition_depends x"
							" ON x.trait_id = d.id AND x.kind = 'trait')"
							" SELECT DISTINCT x.id FROM d JOIN cdp.definition_depends x"
							" ON x.trait_id = d.id AND x.kind = 'account'", id);
}

bool
CdpSameText(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool
same_within(const Interval *a, const Interval *b)
{
	return a == NULL || b == NULL ? a == b :
		a->month == b->month && a->day == b->day && a->time == b->time;
}

/* Options that every trait has. */
Jsonb *
CdpCommonOptions(const Jsonb *options)
{
	JsonbValue	v;

	if (options == NULL || !JB_ROOT_IS_OBJECT(options) ||
		getKeyJsonValueFromContainer((JsonbContainer *) &options->root, "announce",
									 strlen("announce"), &v) == NULL ||
		v.type != jbvBool || !v.val.boolean)
		return NULL;
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum("{\"announce\": true}")));
}

/*
 * What stays when a trait gets another aggregate: what it is over, too.
 */
Jsonb *
CdpLastingOptions(const Jsonb *options)
{
	static char *const others[] = {"over", "rollup"};
	Jsonb	   *result = CdpCommonOptions(options);

	if (options == NULL || !JB_ROOT_IS_OBJECT(options))
		return result;
	for (int i = 0; i < lengthof(others); i++)
	{
		JsonbParseState *state = NULL;
		JsonbValue	key;
		JsonbValue	v;
		Datum		one;

		if (getKeyJsonValueFromContainer((JsonbContainer *) &options->root, others[i],
										 strlen(others[i]), &v) == NULL)
			continue;
		key.type = jbvString;
		key.val.string.val = others[i];
		key.val.string.len = strlen(others[i]);
		(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		(void) pushJsonbValue(&state, WJB_KEY, &key);
		(void) pushJsonbValue(&state, WJB_VALUE, &v);
		one = JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
		result = DatumGetJsonbP(result == NULL ? one :
								DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(result), one));
	}
	return result;
}

/* What an option is to the states: options that say nothing about them apart. */
static Jsonb *
folding_options(const CdpDefinition *definition)
{
	Datum		options = definition->options ? JsonbPGetDatum(definition->options) :
	DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));

	return DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, options,
											  CStringGetTextDatum("announce")));
}

/* Do two definitions fold the same? */
bool
CdpDefinitionSame(const CdpDefinition *a, const CdpDefinition *b)
{
	return a->aggregate == b->aggregate && CdpSameText(a->type, b->type) &&
		CdpSameText(a->key, b->key) &&
		CdpSameText(a->value_sql, b->value_sql) &&
		CdpSameText(a->event, b->event) &&
		CdpSameText(a->filter_sql, b->filter_sql) &&
		CdpSameText(a->each, b->each) &&
		same_within(a->within, b->within) &&
		same_within(a->older_than, b->older_than) &&
		a->has_since == b->has_since && (!a->has_since || a->since == b->since) &&
		compareJsonbContainers(&folding_options(a)->root,
							   &folding_options(b)->root) == 0 &&
		CdpSameText(a->timezone, b->timezone) &&
		CdpSameText(a->expression, b->expression);
}

/*
 * Delete hidden traits that no definition reads, then those that only these
 * have read.
 */
void
CdpHiddenTraitsPrune(void)
{
	List	   *gone;
	bool		any = false;

	CdpApplierLock();
	for (;;)
	{
		ListCell   *lc;

		gone = CdpDefinitionIds("DELETE FROM cdp.trait_definitions t WHERE t.hidden"
						 " AND $1 = 0 AND t.aggregate NOT IN ('consent', 'consent_latest')"
						 " AND NOT EXISTS (SELECT FROM"
						 " cdp.definition_depends d WHERE d.trait_id = t.id)"
						 " AND NOT EXISTS (SELECT FROM cdp.backfills b WHERE b.kind = 'trait'"
						 " AND b.id = t.id AND b.replaces IS NOT NULL)"
						 " RETURNING t.id", 0);
		if (gone == NIL)
			break;
		any = true;
		foreach(lc, gone)
		{
			(void) CdpBackfillEnd("trait", lfirst_int(lc));
			(void) CdpDefinitionIds("DELETE FROM cdp.trait_errors WHERE trait_id = $1",
							 lfirst_int(lc));
			(void) CdpDefinitionIds("DELETE FROM cdp.definition_depends"
									" WHERE kind IN ('trait', 'account') AND id = $1",
							 lfirst_int(lc));
		}
	}
	if (any)
	{
		CdpGenerationBump();
		(void) CdpTraitSetReload(NIL);
	}
}
