/*-------------------------------------------------------------------------
 *
 * mapping.c
 *	  How the rows of an attached table become entries: from the JSON that a
 *	  user writes to the query that maps rows.
 *
 *	  Values are SQL expressions over the columns of the row, which is called
 *	  r.  They are evaluated with the rights of the role that attached the
 *	  table, so they may be anything that this role could ask itself; that
 *	  each is one expression is checked for the sake of clear errors.
 *
 * IDENTIFICATION
 *	  src/collect/mapping.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/syscache.h"

#include "collect/attach.h"
#include "collect/extract.h"
#include "compat.h"

/* jsonb_build_object() takes at most FUNC_MAX_ARGS arguments, two a key. */
#define PAIRS_A_CALL (FUNC_MAX_ARGS / 2)

#define HINT_KEYS "A mapping has the keys type, event, identifiers, properties or traits, time, key, filter, cursor and overlap."

static const char *const types[] = {
	"track", "identify", "page", "screen", "group"
};

pg_noreturn static void
bad_mapping(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid mapping"),
			 errdetail_internal("%s", detail),
			 errhint(HINT_KEYS)));
}

/* An error's position is one in the expression, not in the caller's query. */
static void
position_in_expression(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

/*
 * One SQL expression, checked to be no more and no less.
 */
static const char *
expression(const char *key, const char *text)
{
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = position_in_expression,
		.arg = unconstify(char *, text)
	};
	List *parsed;
	SelectStmt *select;
	bool single = false;

	if (strspn(text, " \t\r\n") == strlen(text))
		bad_mapping(psprintf("%s is empty.", key));
	error_context_stack = &callback;
	parsed = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	error_context_stack = callback.previous;
	if (list_length(parsed) == 1)
	{
		select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;
		single = IsA(select, SelectStmt) &&
			list_length(select->targetList) == 1 &&
			linitial_node(ResTarget, select->targetList)->name == NULL &&
			!select->distinctClause && !select->intoClause &&
			!select->fromClause && !select->whereClause &&
			!select->groupClause && !select->havingClause &&
			!select->windowClause && !select->valuesLists &&
			!select->sortClause && !select->limitOffset &&
			!select->limitCount && !select->lockingClause &&
			!select->withClause && select->op == SETOP_NONE;
	}
	if (!single)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("exactly one expression is expected for %s", key),
				 errdetail("It says: %s", text)));

	/* a comment at the end must not swallow what follows */
	return psprintf("(%s\n)", text);
}

static char *
string_of(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static const char *
expression_of(const char *key, const JsonbValue *value)
{
	if (value->type != jbvString)
		bad_mapping(psprintf("%s must be a string: a column or an SQL expression.", key));
	return expression(key, string_of(value));
}

static void
parse_type(CdpMapping *mapping, const JsonbValue *value)
{
	char *type;

	if (value->type != jbvString)
		bad_mapping("type must be a string.");
	type = string_of(value);
	for (int i = 0; i < lengthof(types); i++)
		if (strcmp(type, types[i]) == 0)
		{
			mapping->type = types[i];
			return;
		}
	bad_mapping(psprintf("type is \"%s\", not track, identify, page, screen or group.", type));
}

/*
 * The name of the event: as it is, or {"sql": expression}.
 */
static const char *
parse_event(const JsonbValue *value)
{
	if (value->type == jbvString)
	{
		if (value->val.string.len == 0)
			bad_mapping("event is empty.");
		return psprintf("%s::text", quote_literal_cstr(string_of(value)));
	}
	if (value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data) &&
		JsonContainerSize(value->val.binary.data) == 1)
	{
		JsonbValue sql;

		if (CdpJsonKey(value->val.binary.data, "sql", &sql) != NULL)
			return expression_of("event", &sql);
	}
	bad_mapping("event must be the name of the event, or {\"sql\": expression}.");
}

static void
add_identifier(CdpMapping *mapping, const JsonbValue *kind,
			   const JsonbValue *value, bool check_kind)
{
	char *name = string_of(kind);

	if (check_kind &&
		!CdpKindLookup(CdpKindSetGet(-1), name, strlen(name))->registered)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("kind of identifier \"%s\" is not registered", name),
				 errhint("Register it with cdp.create_identifier_kind().")));
	mapping->kinds = lappend(mapping->kinds, name);
	mapping->values = lappend(mapping->values,
							  unconstify(char *, expression_of(name, value)));
}

/*
 * {kind: expression, or array of expressions}
 */
static void
parse_identifiers(CdpMapping *mapping, const JsonbValue *value, bool check_kinds)
{
	JsonbIterator *it;
	JsonbIterator *inner;
	JsonbValue kind;
	JsonbValue item;

	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		bad_mapping("identifiers must be an object: {kind: expression}.");
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &kind, true);
	while (JsonbIteratorNext(&it, &kind, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &item, true);
		if (item.type != jbvBinary || !JsonContainerIsArray(item.val.binary.data))
		{
			add_identifier(mapping, &kind, &item, check_kinds);
			continue;
		}
		inner = JsonbIteratorInit(item.val.binary.data);
		(void) JsonbIteratorNext(&inner, &item, true);
		while (JsonbIteratorNext(&inner, &item, true) == WJB_ELEM)
			add_identifier(mapping, &kind, &item, check_kinds);
	}
}

static void
add_pair(StringInfo buf, int n, const char *name, const char *value)
{
	if (n % PAIRS_A_CALL == 0)
		appendStringInfo(buf, "%sjsonb_build_object(", n > 0 ? ") || " : "");
	else
		appendStringInfoString(buf, ", ");
	appendStringInfo(buf, "%s::text, %s", quote_literal_cstr(name), value);
}

/*
 * An expression that yields jsonb, a list of columns, or {name: expression}.
 */
static const char *
parse_properties(const char *key, const JsonbValue *value)
{
	JsonbIterator *it;
	JsonbValue name;
	JsonbValue item;
	StringInfoData buf;
	int n = 0;

	if (value->type == jbvString)
		return expression_of(key, value);
	if (value->type != jbvBinary)
		bad_mapping(psprintf("%s must be an expression, a list of columns, or {name: expression}.", key));
	initStringInfo(&buf);
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &name, true);
	if (JsonContainerIsArray(value->val.binary.data))
	{
		while (JsonbIteratorNext(&it, &name, true) == WJB_ELEM)
		{
			if (name.type != jbvString)
				bad_mapping(psprintf("%s must be a list of names of columns.", key));
			add_pair(&buf, n++, string_of(&name),
					 psprintf("r.%s", quote_identifier(string_of(&name))));
		}
	}
	else
	{
		while (JsonbIteratorNext(&it, &name, true) == WJB_KEY)
		{
			(void) JsonbIteratorNext(&it, &item, true);
			add_pair(&buf, n++, string_of(&name),
					 expression_of(string_of(&name), &item));
		}
	}
	if (n == 0)
		return "'{}'::jsonb";
	appendStringInfoChar(&buf, ')');
	return buf.data;
}

/*
 * An expression, or several that together are the key.
 */
static const char *
parse_key(const JsonbValue *value)
{
	JsonbIterator *it;
	JsonbValue item;
	StringInfoData buf;
	int n = 0;

	if (value->type == jbvString)
		return psprintf("%s::text", expression_of("key", value));
	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data) ||
		JsonContainerSize(value->val.binary.data) == 0)
		bad_mapping("key must be an expression, or an array of them.");
	initStringInfo(&buf);
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &item, true);
	while (JsonbIteratorNext(&it, &item, true) == WJB_ELEM)
		appendStringInfo(&buf, "%s%s", n++ > 0 ? ", " : "ROW(",
						 expression_of("key", &item));
	appendStringInfoString(&buf, ")::text");
	return buf.data;
}

/*
 * A mapping, all of it in the current context.  Kinds are checked when a table
 * is attached, and not when one of its rows changes.
 */
CdpMapping *
CdpMappingParse(Jsonb *json, bool check_kinds)
{
	CdpMapping *mapping = palloc0(sizeof(CdpMapping));
	JsonbIterator *it;
	JsonbValue name;
	JsonbValue value;

	mapping->type = "track";
	if (!JB_ROOT_IS_OBJECT(json))
		bad_mapping("It is not a JSON object.");
	it = JsonbIteratorInit(&json->root);
	(void) JsonbIteratorNext(&it, &name, true);
	while (JsonbIteratorNext(&it, &name, true) == WJB_KEY)
	{
		char *key = string_of(&name);

		(void) JsonbIteratorNext(&it, &value, true);
		if (strcmp(key, "type") == 0)
			parse_type(mapping, &value);
		else if (strcmp(key, "event") == 0)
			mapping->event = parse_event(&value);
		else if (strcmp(key, "identifiers") == 0)
			parse_identifiers(mapping, &value, check_kinds);
		else if (strcmp(key, "properties") == 0 || strcmp(key, "traits") == 0)
		{
			if (mapping->properties != NULL)
				bad_mapping("It has both properties and traits, which are the same.");
			mapping->properties = parse_properties(key, &value);
		}
		else if (strcmp(key, "time") == 0)
			mapping->time = expression_of(key, &value);
		else if (strcmp(key, "key") == 0)
			mapping->key = parse_key(&value);
		else if (strcmp(key, "filter") == 0)
			mapping->filter = expression_of(key, &value);
		else if (strcmp(key, "cursor") == 0)
			mapping->cursor = expression_of(key, &value);
		else if (strcmp(key, "overlap") == 0)
		{
			if (value.type != jbvString)
				bad_mapping("overlap must be an interval.");
			mapping->overlap = string_of(&value);
		}
		else
			bad_mapping(psprintf("There is no key \"%s\".", key));
	}

	if (mapping->kinds == NIL)
		bad_mapping("It has no identifiers.");
	if (strcmp(mapping->type, "track") == 0 && mapping->event == NULL)
		bad_mapping("It has no event.");
	if (strcmp(mapping->type, "identify") == 0 || strcmp(mapping->type, "group") == 0)
	{
		if (mapping->event != NULL)
			bad_mapping(psprintf("An entry of type %s has no event.", mapping->type));
	}
	if (mapping->overlap != NULL && mapping->cursor == NULL)
		bad_mapping("overlap needs a cursor.");
	return mapping;
}

/*
 * Columns that do not exist, types that do not fit, missing rights: all of it
 * is told when a table is attached.
 */
void
CdpMappingTry(const CdpMapping *mapping, Oid relid, Oid role)
{
	const char *key = mapping->key;
	char *relation = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
												get_rel_name(relid));
	CdpUserContext saved;
	SPIPlanPtr plan;
	ListCell *cell;

	if (key == NULL)
		key = CdpMappingPrimaryKey(relid, false);
	CdpBecomeRole(role, &saved);
	plan = SPI_prepare(psprintf("%s LIMIT 0", CdpMappingQuery(mapping, key, psprintf("%s AS r", relation), NULL)), 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	foreach(cell, SPI_plan_get_plan_sources(plan))
	{
		Query *query = linitial_node(Query, ((CachedPlanSource *) lfirst(cell))->query_list);

		if (query->hasAggs || query->hasWindowFuncs || query->hasTargetSRFs)
			bad_mapping("What it says must be said of one row at a time: without aggregates, window functions, and functions that return sets.");
	}
	if (SPI_execute_plan(plan, NULL, NULL, false, 0) < 0)
		elog(ERROR, "could not ask for rows");
	if (mapping->cursor != NULL)
	{
		bool isnull;

		if (SPI_execute(psprintf("SELECT min(i.i) < '0', (SELECT max(%s::timestamptz) FROM %s AS r WHERE false)"
								 " FROM (SELECT %s::interval) AS i(i)",
								 mapping->cursor, relation,
								 quote_literal_cstr(mapping->overlap ? mapping->overlap : "0")),
						false, 0) != SPI_OK_SELECT)
			elog(ERROR, "could not follow the cursor");
		if (DatumGetBool(CdpCell(0, 1, &isnull)))
			bad_mapping("overlap is negative.");
	}
	CdpRestoreUser(&saved);
}

const char *
CdpMappingPrimaryKey(Oid relid, bool missing_ok)
{
	Oid constraint;
	Bitmapset *columns = get_primary_key_attnos(relid, true, &constraint);
	StringInfoData buf;
	int n = bms_num_members(columns);
	int column = -1;

	if (n == 0)
	{
		if (missing_ok)
			return NULL;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" has no primary key", get_rel_name(relid)),
				 errhint("Say in the mapping what tells its rows apart: \"key\": column, expression, or an array of them.")));
	}
	initStringInfo(&buf);
	while ((column = bms_next_member(columns, column)) >= 0)
		appendStringInfo(&buf, "%sr.%s", buf.len > 0 ? ", " : n > 1 ? "ROW(" :
																	  "",
						 quote_identifier(get_attname(relid,
													  column + FirstLowInvalidHeapAttributeNumber,
													  false)));
	appendStringInfoString(&buf, n > 1 ? ")::text" : "::text");
	return buf.data;
}

/*
 * Which operator of the index of the primary key says that a column is equal?
 * Types of extensions have theirs where no search_path finds it.  Nothing is
 * locked for it: the query is, where that may fail.
 */
static Oid
equality_of(Oid index, AttrNumber column)
{
	HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Oid result = InvalidOid;
	Form_pg_index form;
	Datum classes;
	bool isnull;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	form = (Form_pg_index) GETSTRUCT(tuple);
	classes = SysCacheGetAttr(INDEXRELID, tuple, Anum_pg_index_indclass, &isnull);
	for (int i = 0; i < form->indnkeyatts; i++)
		if (form->indkey.values[i] == column)
		{
			Oid class = ((oidvector *) DatumGetPointer(classes))->values[i];
			Oid type = get_opclass_input_type(class);

			result = get_opfamily_member(get_opclass_family(class), type, type,
										 BTEqualStrategyNumber);
		}
	ReleaseSysCache(tuple);
	return result;
}

bool
CdpMappingSameKey(StringInfo buf, Oid relid, Oid index, AttrNumber column, const char *value)
{
	Oid type = get_atttype(relid, column);
	Oid equality = equality_of(index, column);

	if (!OidIsValid(equality))
		return false;
	if (buf->len > 0)
		appendStringInfoString(buf, " AND ");
	generate_operator_clause(buf, psprintf("k.%s", quote_identifier(get_attname(relid, column, false))),
							 type, equality, value, type);
	return true;
}

char *
CdpMappingCurrentRows(Oid relid, const char *relation, const char *source,
					  const char *other)
{
	Oid constraint;
	Bitmapset *columns = get_primary_key_attnos(relid, true, &constraint);
	Oid index = columns == NULL ? InvalidOid : get_constraint_index(constraint);
	StringInfoData names;
	StringInfoData matches;
	int column = -1;
	char *keys;

	if (columns == NULL)
		return NULL;
	initStringInfo(&names);
	initStringInfo(&matches);
	while ((column = bms_next_member(columns, column)) >= 0)
	{
		AttrNumber number = column + FirstLowInvalidHeapAttributeNumber;
		const char *name = quote_identifier(get_attname(relid, number, false));

		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", name);
		if (!CdpMappingSameKey(&matches, relid, index, number, psprintf("o.%s", name)))
			return NULL;
	}
	keys = psprintf("SELECT %s FROM %s", names.data, source);
	if (other != NULL)
		keys = psprintf("%s UNION ALL SELECT %s FROM %s", keys, names.data, other);
	return psprintf("(SELECT k.* FROM %s AS k WHERE EXISTS (SELECT FROM (%s) AS o WHERE %s)) AS r",
					relation, keys, matches.data);
}

char *
CdpMappingQuery(const CdpMapping *mapping, const char *key, const char *from,
				const char *condition)
{
	StringInfoData buf;
	ListCell *cell;
	const char *sep = "";

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT %s, ARRAY[", key);
	foreach(cell, mapping->values)
	{
		appendStringInfo(&buf, "%s%s::text", sep, (char *) lfirst(cell));
		sep = ", ";
	}
	appendStringInfo(&buf, "]::text[], %s::text, %s::jsonb, %s::timestamptz FROM %s",
					 mapping->event ? mapping->event : "NULL",
					 mapping->properties ? mapping->properties : "to_jsonb(r)",
					 mapping->time ? mapping->time : "NULL", from);
	sep = " WHERE ";
	if (mapping->filter != NULL)
	{
		appendStringInfo(&buf, "%s%s", sep, mapping->filter);
		sep = " AND ";
	}
	if (condition != NULL)
		appendStringInfo(&buf, "%s%s", sep, condition);
	return buf.data;
}

char *
CdpMappingKeyQuery(const CdpMapping *mapping, const char *key, const char *from,
				   bool filtered)
{
	return psprintf("SELECT %s FROM %s%s%s", key, from,
					filtered && mapping->filter ? " WHERE " : "",
					filtered && mapping->filter ? mapping->filter : "");
}
