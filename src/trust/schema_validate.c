/*-------------------------------------------------------------------------
 *
 * schema_validate.c
 *	  Judge a jsonb value by a compiled JSON Schema.
 *
 *	  The value is read where it stands.  Whoever does not ask what is wrong
 *	  gets the first answer; inside anyOf, oneOf, not, if and contains nobody
 *	  asks, as what is wrong there need not be wrong.
 *
 * IDENTIFICATION
 *	  src/trust/schema_validate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "trust/schema.h"

/* The way to a value, from its end. */
typedef struct Way
{
	const struct Way *before;
	const char *name; /* NULL: index */
	int len;
	int index;
} Way;

/*
 * What judging one value may cost, so that the outcome is the same on every
 * machine, and comes.
 */
#define MAX_DEPTH 200 /* subschemas inside each other */
#define MAX_STEPS 1000000 /* subschemas that judge something */
#define MAX_VIOLATIONS 10000

typedef struct Work
{
	int depth;
	int steps;
	bool exceeded;
} Work;

typedef struct Judge
{
	List **violations; /* NULL: the first is enough */
	Work *work;
} Judge;

static bool judge_value(Judge *judge, CdpSchemaNode *node, JsonbValue *value, const Way *way);
static bool judge_here(Judge *judge, CdpSchemaNode *node, JsonbValue *value, const Way *way);

static void
append_way(StringInfo buf, const Way *way)
{
	if (way == NULL)
		return;
	append_way(buf, way->before);
	appendStringInfoChar(buf, '/');
	if (way->name == NULL)
		appendStringInfo(buf, "%d", way->index);
	for (int i = 0; way->name != NULL && i < way->len; i++)
	{
		if (way->name[i] == '~')
			appendStringInfoString(buf, "~0");
		else if (way->name[i] == '/')
			appendStringInfoString(buf, "~1");
		else
			appendStringInfoChar(buf, way->name[i]);
	}
}

/*
 * Something is wrong.  True: go on, as more may be.
 */
static bool
broken(Judge *judge, const Way *way, const char *keyword)
{
	CdpSchemaViolation *violation;
	StringInfoData path;

	if (judge->violations == NULL)
		return false;
	if (list_length(*judge->violations) >= MAX_VIOLATIONS)
	{
		judge->work->exceeded = true;
		return false;
	}
	initStringInfo(&path);
	append_way(&path, way);
	violation = palloc_object(CdpSchemaViolation);
	violation->path = path.data;
	violation->keyword = keyword;
	*judge->violations = lappend(*judge->violations, violation);
	return true;
}

static bool
is_valid(Judge *judge, CdpSchemaNode *node, JsonbValue *value)
{
	Judge silent = { NULL, judge->work };

	return judge_value(&silent, node, value, NULL);
}

/* ---- values ---- */

static int
type_of(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return CDP_JSON_NULL;
		case jbvBool:
			return CDP_JSON_BOOLEAN;
		case jbvString:
			return CDP_JSON_STRING;
		case jbvNumeric:
			if (DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(value->val.numeric),
												 DirectFunctionCall2(numeric_trunc, NumericGetDatum(value->val.numeric),
																	 Int32GetDatum(0)))))
				return CDP_JSON_NUMBER | CDP_JSON_INTEGER;
			return CDP_JSON_NUMBER;
		default:
			return JsonContainerIsArray(value->val.binary.data) ? CDP_JSON_ARRAY : CDP_JSON_OBJECT;
	}
}

static bool
is_equal(JsonbValue *a, JsonbValue *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvString:
			return a->val.string.len == b->val.string.len &&
				memcmp(a->val.string.val, b->val.string.val, a->val.string.len) == 0;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(a->val.numeric),
													NumericGetDatum(b->val.numeric)));
		default:
			/* 1 and 1.0 are equal in containers too */
			return JsonContainerIsArray(a->val.binary.data) == JsonContainerIsArray(b->val.binary.data) &&
				compareJsonbContainers(a->val.binary.data, b->val.binary.data) == 0;
	}
}

static int
compare(Numeric a, Numeric b)
{
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a), NumericGetDatum(b)));
}

static bool
has_name(JsonbValue *object, JsonbValue *name)
{
	return getKeyJsonValueFromContainer(object->val.binary.data, name->val.string.val,
										name->val.string.len, NULL) != NULL;
}

/* jsonb orders keys by length, then bytes, and so are the schemas. */
static CdpSchemaNode *
find_named(CdpNamedSchema *named, int n, const char *name, int len)
{
	int low = 0;
	int high = n;

	while (low < high)
	{
		int middle = (low + high) / 2;
		int cmp = named[middle].namelen != len ? named[middle].namelen - len :
												 memcmp(named[middle].name, name, len);

		if (cmp == 0)
			return named[middle].schema;
		if (cmp < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static bool
matches(Judge *judge, CdpPattern *pattern, const char *value, int len)
{
	if (pattern->looks_around && len > CDP_MAX_LOOKED_AROUND)
	{
		judge->work->exceeded = true;
		return false;
	}
	return CdpPatternMatches(pattern, value, len);
}

/* ---- by type ---- */

#define BROKEN(keyword) \
	do \
	{ \
		valid = false; \
		if (!broken(judge, way, keyword)) \
			return false; \
	} while (0)

static bool
judge_number(Judge *judge, CdpSchemaNode *node, Numeric number, const Way *way)
{
	bool valid = true;

	if (node->minimum != NULL && compare(number, node->minimum) < 0)
		BROKEN("minimum");
	if (node->maximum != NULL && compare(number, node->maximum) > 0)
		BROKEN("maximum");
	if (node->exclusive_minimum != NULL && compare(number, node->exclusive_minimum) <= 0)
		BROKEN("exclusiveMinimum");
	if (node->exclusive_maximum != NULL && compare(number, node->exclusive_maximum) >= 0)
		BROKEN("exclusiveMaximum");
	if (node->multiple_of != NULL &&
		compare(DatumGetNumeric(DirectFunctionCall2(numeric_mod, NumericGetDatum(number),
													NumericGetDatum(node->multiple_of))),
				int64_to_numeric(0)) != 0)
		BROKEN("multipleOf");
	return valid;
}

static bool
judge_string(Judge *judge, CdpSchemaNode *node, const char *string, int len, const Way *way)
{
	bool valid = true;

	if (node->min_length > 0 || node->max_length >= 0)
	{
		int64 length = pg_mbstrlen_with_len(string, len);

		if (length < node->min_length)
			BROKEN("minLength");
		if (node->max_length >= 0 && length > node->max_length)
			BROKEN("maxLength");
	}
	if (node->pattern != NULL && !matches(judge, node->pattern, string, len))
		BROKEN("pattern");
	if (node->format != NULL && !node->format(string, len))
		BROKEN("format");
	return valid;
}

static int
compare_elements(const void *a, const void *b)
{
	/* any order in which equal ones are neighbours */
	JsonbValue *x = unconstify(JsonbValue *, (const JsonbValue *) a);
	JsonbValue *y = unconstify(JsonbValue *, (const JsonbValue *) b);

	if (x->type != y->type)
		return x->type < y->type ? -1 : 1;
	switch (x->type)
	{
		case jbvNull:
			return 0;
		case jbvBool:
			return (int) x->val.boolean - (int) y->val.boolean;
		case jbvString:
			if (x->val.string.len != y->val.string.len)
				return x->val.string.len - y->val.string.len;
			return memcmp(x->val.string.val, y->val.string.val, x->val.string.len);
		case jbvNumeric:
			return compare(x->val.numeric, y->val.numeric);
		default:
			return compareJsonbContainers(x->val.binary.data, y->val.binary.data);
	}
}

static bool
judge_array(Judge *judge, CdpSchemaNode *node, JsonbContainer *array, const Way *way)
{
	int n = JsonContainerSize(array);
	int contained = 0;
	bool valid = true;
	JsonbValue *elements = NULL;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue v;
	int i = 0;

	if (n < node->min_items)
		BROKEN("minItems");
	if (node->max_items >= 0 && n > node->max_items)
		BROKEN("maxItems");
	if (node->unique_items)
		elements = palloc_array(JsonbValue, Max(n, 1));
	if (node->nprefix == 0 && node->items == NULL && node->contains == NULL && !node->unique_items)
		return valid;
	iterator = JsonbIteratorInit(array);
	while ((token = JsonbIteratorNext(&iterator, &v, true)) != WJB_DONE)
	{
		Way here = { way, NULL, 0, i };
		CdpSchemaNode *schema;

		if (token != WJB_ELEM)
			continue;
		schema = i < node->nprefix ? node->prefix[i] : node->items;
		if (schema != NULL && !judge_value(judge, schema, &v, &here))
		{
			valid = false;
			if (judge->violations == NULL)
				return false;
		}
		if (node->contains != NULL && is_valid(judge, node->contains, &v))
			contained++;
		if (elements != NULL)
			elements[i] = v;
		i++;
	}
	if (node->contains != NULL && contained < node->min_contains)
		BROKEN(node->min_contains == 1 ? "contains" : "minContains");
	if (node->contains != NULL && node->max_contains >= 0 && contained > node->max_contains)
		BROKEN("maxContains");
	if (elements != NULL)
	{
		qsort(elements, n, sizeof(JsonbValue), compare_elements);
		for (i = 1; i < n; i++)
			if (is_equal(&elements[i - 1], &elements[i]))
			{
				BROKEN("uniqueItems");
				break;
			}
	}
	return valid;
}

/*
 * One property: by its name, by patterns of names, else as an additional one.
 */
static bool
judge_property(Judge *judge, CdpSchemaNode *node, JsonbValue *key, JsonbValue *value, const Way *way)
{
	const char *name = key->val.string.val;
	int len = key->val.string.len;
	CdpSchemaNode *schema = find_named(node->properties, node->nproperties, name, len);
	bool known = schema != NULL;
	bool valid = schema == NULL || judge_value(judge, schema, value, way);

	for (int i = 0; i < node->npatterns && (valid || judge->violations != NULL); i++)
	{
		if (!matches(judge, node->patterns[i].pattern, name, len))
			continue;
		known = true;
		valid &= judge_value(judge, node->patterns[i].schema, value, way);
	}
	if (!known && node->additional != NULL)
	{
		/* "false" speaks of the property, not of its value */
		if (node->additional->nothing)
			BROKEN("additionalProperties");
		else
			valid &= judge_value(judge, node->additional, value, way);
	}
	if (node->names != NULL && !is_valid(judge, node->names, key))
		BROKEN("propertyNames");
	return valid;
}

static bool
judge_object(Judge *judge, CdpSchemaNode *node, JsonbValue *object, const Way *way)
{
	int n = JsonContainerSize(object->val.binary.data);
	bool valid = true;

	if (n < node->min_properties)
		BROKEN("minProperties");
	if (node->max_properties >= 0 && n > node->max_properties)
		BROKEN("maxProperties");
	for (int i = 0; i < node->nrequired; i++)
		if (!has_name(object, &node->required[i]))
			BROKEN("required");
	for (int i = 0; i < node->ndependencies; i++)
	{
		CdpDependency *dependency = &node->dependencies[i];

		for (int j = 0; j < dependency->n && has_name(object, &dependency->name); j++)
			if (!has_name(object, &dependency->required[j]))
				BROKEN("dependentRequired");
	}
	for (int i = 0; i < node->ndependents; i++)
	{
		CdpNamedSchema *dependent = &node->dependents[i];

		if (getKeyJsonValueFromContainer(object->val.binary.data, dependent->name,
										 dependent->namelen, NULL) != NULL &&
			!judge_value(judge, dependent->schema, object, way))
		{
			valid = false;
			if (judge->violations == NULL)
				return false;
		}
	}
	if (node->nproperties > 0 || node->npatterns > 0 || node->additional != NULL || node->names != NULL)
	{
		JsonbIterator *iterator = JsonbIteratorInit(object->val.binary.data);
		JsonbIteratorToken token;
		JsonbValue key;
		JsonbValue value;

		while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
		{
			Way here = { way, key.val.string.val, key.val.string.len, 0 };

			if (token != WJB_KEY)
				continue;
			(void) JsonbIteratorNext(&iterator, &value, true);
			if (!judge_property(judge, node, &key, &value, &here))
			{
				valid = false;
				if (judge->violations == NULL)
					return false;
			}
		}
	}
	return valid;
}

/* ---- by other schemas ---- */

static int
count_valid(Judge *judge, CdpSchemaNode **schemas, int n, JsonbValue *value, int enough)
{
	int valid = 0;

	for (int i = 0; i < n && valid < enough; i++)
		valid += is_valid(judge, schemas[i], value);
	return valid;
}

static bool
judge_combined(Judge *judge, CdpSchemaNode *node, JsonbValue *value, const Way *way)
{
	bool valid = true;

#define ALSO(schema) \
	do \
	{ \
		if (!judge_value(judge, schema, value, way)) \
		{ \
			valid = false; \
			if (judge->violations == NULL) \
				return false; \
		} \
	} while (0)

	if (node->ref != NULL)
		ALSO(node->ref);
	for (int i = 0; i < node->nall; i++)
		ALSO(node->all[i]);
	if (node->nany > 0 && count_valid(judge, node->any, node->nany, value, 1) == 0)
		BROKEN("anyOf");
	if (node->none > 0 && count_valid(judge, node->one, node->none, value, 2) != 1)
		BROKEN("oneOf");
	if (node->not != NULL && is_valid(judge, node->not, value))
		BROKEN("not");
	if (node->if_ != NULL)
	{
		CdpSchemaNode *branch = is_valid(judge, node->if_, value) ? node->then : node->else_;

		if (branch != NULL)
			ALSO(branch);
	}
#undef ALSO
	return valid;
}

static bool
judge_value(Judge *judge, CdpSchemaNode *node, JsonbValue *value, const Way *way)
{
	Work *work = judge->work;
	bool valid;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (work->exceeded || work->depth >= MAX_DEPTH || work->steps >= MAX_STEPS)
	{
		work->exceeded = true;
		return false;
	}
	work->steps++;
	work->depth++;
	valid = judge_here(judge, node, value, way);
	work->depth--;
	return valid && !work->exceeded;
}

static bool
judge_here(Judge *judge, CdpSchemaNode *node, JsonbValue *value, const Way *way)
{
	int types;
	bool valid = true;

	if (node->nothing)
	{
		(void) broken(judge, way, "false");
		return false;
	}
	types = type_of(value);
	if (node->types != 0 && (node->types & types) == 0)
		BROKEN("type");
	if (node->constant != NULL && !is_equal(node->constant, value))
		BROKEN("const");
	if (node->nallowed >= 0)
	{
		bool found = false;

		for (int i = 0; i < node->nallowed && !found; i++)
			found = is_equal(&node->allowed[i], value);
		if (!found)
			BROKEN("enum");
	}
	if (types & CDP_JSON_NUMBER)
		valid &= judge_number(judge, node, value->val.numeric, way);
	else if (types & CDP_JSON_STRING)
		valid &= judge_string(judge, node, value->val.string.val, value->val.string.len, way);
	else if (types & CDP_JSON_ARRAY)
		valid &= judge_array(judge, node, value->val.binary.data, way);
	else if (types & CDP_JSON_OBJECT)
		valid &= judge_object(judge, node, value, way);
	if (!valid && judge->violations == NULL)
		return false;
	return judge_combined(judge, node, value, way) && valid;
}

bool
CdpSchemaValidate(CdpSchema *schema, Jsonb *instance, List **violations)
{
	Work work = { 0 };
	Judge judge = { violations, &work };
	JsonbValue value;
	bool valid;

	if (violations != NULL)
		*violations = NIL;
	if (JB_ROOT_IS_SCALAR(instance))
		(void) JsonbExtractScalar(&instance->root, &value);
	else
	{
		value.type = jbvBinary;
		value.val.binary.data = &instance->root;
		value.val.binary.len = VARSIZE(instance) - VARHDRSZ;
	}
	valid = judge_value(&judge, schema->root, &value, NULL);
	if (work.exceeded && violations != NULL)
	{
		/* what was found so far depends on what was looked at first */
		*violations = NIL;
		(void) broken(&judge, NULL, CDP_SCHEMA_ERROR);
	}
	return valid;
}

PG_FUNCTION_INFO_V1(cdp_schema_violations);

/*
 * cdp.schema_violations(value jsonb, schema jsonb) returns setof (path, keyword)
 *
 * The schema is compiled once for a query that gives the same one each time.
 */
Datum
cdp_schema_violations(PG_FUNCTION_ARGS)
{
	typedef struct Kept
	{
		Jsonb *text;
		CdpSchema *schema;
		MemoryContext context;
	} Kept;
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Jsonb *json = PG_GETARG_JSONB_P(1);
	Kept *kept = (Kept *) fcinfo->flinfo->fn_extra;
	List *violations;
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (kept == NULL || VARSIZE(kept->text) != VARSIZE(json) ||
		memcmp(kept->text, json, VARSIZE(json)) != 0)
	{
		MemoryContext context = AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "cdp json schema",
													  ALLOCSET_SMALL_SIZES);
		Kept *anew = MemoryContextAlloc(context, sizeof(Kept));

		anew->context = context;
		anew->text = MemoryContextAlloc(context, VARSIZE(json));
		memcpy(anew->text, json, VARSIZE(json));
		anew->schema = CdpSchemaCompile(json, context);
		if (kept != NULL)
			MemoryContextDelete(kept->context);
		fcinfo->flinfo->fn_extra = kept = anew;
	}
	(void) CdpSchemaValidate(kept->schema, PG_GETARG_JSONB_P(0), &violations);
	foreach(lc, violations)
	{
		CdpSchemaViolation *violation = (CdpSchemaViolation *) lfirst(lc);
		Datum values[2] = { CStringGetTextDatum(violation->path), CStringGetTextDatum(violation->keyword) };
		bool nulls[2] = { false, false };

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
