/*-------------------------------------------------------------------------
 *
 * schema.c
 *	  Compile a JSON Schema (draft 2020-12).
 *
 *	  Each subschema becomes a node, once, under its JSON pointer, so that a
 *	  schema may refer to itself.  Words that are not known are refused, for a
 *	  misspelt "required" that is ignored lets everything through; those that
 *	  begin with x- are notes.
 *
 *	  Method: "JSON Schema: A Media Type for Describing JSON Documents" and
 *	  "JSON Schema Validation", draft 2020-12.
 *
 * IDENTIFICATION
 *	  src/trust/schema.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "trust/schema.h"

#define MAX_NODES 10000

typedef struct Compiler
{
	Jsonb *document;
	List *pointers; /* String */
	List *nodes; /* CdpSchemaNode *, one for each pointer */
	List *anchors; /* of "$anchor": String, and the pointers */
	List *anchored;
} Compiler;

static CdpSchemaNode *compile(Compiler *compiler, JsonbValue *value, const char *pointer);

/* ---- errors ---- */

static void
invalid(const char *pointer, const char *keyword, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid JSON Schema: \"%s\" at \"%s\"", keyword, pointer),
			 errdetail_internal("%s", detail)));
}

static void
unsupported(const char *pointer, const char *keyword, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("JSON Schema: \"%s\" at \"%s\" is not supported", keyword, pointer),
			 errdetail_internal("%s", detail)));
}

/* ---- values ---- */

static bool
is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

static bool
is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data) &&
		!JsonContainerIsScalar(value->val.binary.data);
}

static bool
is_word(const JsonbValue *value, const char *word)
{
	return value->type == jbvString && value->val.string.len == (int) strlen(word) &&
		memcmp(value->val.string.val, word, value->val.string.len) == 0;
}

static char *
text_of(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* The document as a value: a scalar, or a container. */
static void
root_value(Jsonb *document, JsonbValue *value)
{
	if (JB_ROOT_IS_SCALAR(document))
		(void) JsonbExtractScalar(&document->root, value);
	else
	{
		value->type = jbvBinary;
		value->val.binary.data = &document->root;
		value->val.binary.len = VARSIZE(document) - VARHDRSZ;
	}
}

/* One more step of a JSON pointer. */
static char *
step(const char *pointer, const char *name, int len)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "%s/", pointer);
	for (int i = 0; i < len; i++)
	{
		if (name[i] == '~')
			appendStringInfoString(&buf, "~0");
		else if (name[i] == '/')
			appendStringInfoString(&buf, "~1");
		else
			appendStringInfoChar(&buf, name[i]);
	}
	return buf.data;
}

static int64
count_of(const JsonbValue *value, const char *pointer, const char *keyword)
{
	Numeric whole;

	if (value->type == jbvNumeric)
	{
		whole = DatumGetNumeric(DirectFunctionCall2(numeric_trunc, NumericGetDatum(value->val.numeric),
													Int32GetDatum(0)));
		if (DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(whole),
											 NumericGetDatum(value->val.numeric))) &&
			!numeric_is_nan(whole))
		{
			char *digits = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(whole)));

			/* more than anything can have is as good as that much */
			if (digits[0] != '-')
				return strlen(digits) > 18 ? PG_INT64_MAX : strtoi64(digits, NULL, 10);
		}
	}
	invalid(pointer, keyword, "It must be a non-negative integer.");
	return 0;
}

static Numeric
number_of(const JsonbValue *value, const char *pointer, const char *keyword)
{
	if (value->type != jbvNumeric)
		invalid(pointer, keyword, "It must be a number.");
	return DatumGetNumericCopy(NumericGetDatum(value->val.numeric));
}

static JsonbValue *
elements_of(const JsonbValue *value, const char *pointer, const char *keyword, int *n)
{
	JsonbValue *elements;

	if (!is_array(value))
		invalid(pointer, keyword, "It must be an array.");
	*n = JsonContainerSize(value->val.binary.data);
	elements = palloc_array(JsonbValue, Max(*n, 1));
	for (int i = 0; i < *n; i++)
		elements[i] = *getIthJsonbValueFromContainer(value->val.binary.data, i);
	return elements;
}

static JsonbValue *
names_of(const JsonbValue *value, const char *pointer, const char *keyword, int *n)
{
	JsonbValue *names = elements_of(value, pointer, keyword, n);

	for (int i = 0; i < *n; i++)
		if (names[i].type != jbvString)
			invalid(pointer, keyword, "It must be an array of strings.");
	return names;
}

static CdpPattern *
pattern_of(const char *pattern, int len, const char *pointer, const char *keyword)
{
	const char *why;
	CdpPattern *translated = CdpPatternTranslate(pattern, len, &why);
	MemoryContext old = CurrentMemoryContext;

	if (translated == NULL)
		unsupported(pointer, keyword, why);
	/* it may be no regular expression at all: now, and not at each entry */
	PG_TRY();
	{
		(void) CdpPatternMatches(translated, "", 0);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_INVALID_REGULAR_EXPRESSION)
			PG_RE_THROW();
		FlushErrorState();
		invalid(pointer, keyword, error->message);
	}
	PG_END_TRY();
	return translated;
}

static int
types_of(const JsonbValue *value, const char *pointer)
{
	static const struct
	{
		const char *name;
		int types;
	} known[] = {
		{ "null", CDP_JSON_NULL }, { "boolean", CDP_JSON_BOOLEAN }, { "number", CDP_JSON_NUMBER }, { "integer", CDP_JSON_INTEGER }, { "string", CDP_JSON_STRING }, { "array", CDP_JSON_ARRAY }, { "object", CDP_JSON_OBJECT }
	};
	int types = 0;

	if (is_array(value))
	{
		int n;
		JsonbValue *names = names_of(value, pointer, "type", &n);

		for (int i = 0; i < n; i++)
			types |= types_of(&names[i], pointer);
		if (types != 0)
			return types;
	}
	for (int i = 0; i < lengthof(known); i++)
		if (is_word(value, known[i].name))
			return known[i].types;
	invalid(pointer, "type", "It must be null, boolean, number, integer, string, array or object, or an array of these.");
	return 0;
}

/* ---- subschemas ---- */

static CdpSchemaNode **
schemas_of(Compiler *compiler, const JsonbValue *value, const char *pointer, const char *keyword, int *n)
{
	JsonbValue *elements = elements_of(value, pointer, keyword, n);
	CdpSchemaNode **nodes = palloc_array(CdpSchemaNode *, Max(*n, 1));

	if (*n == 0)
		invalid(pointer, keyword, "It must not be empty.");
	for (int i = 0; i < *n; i++)
	{
		char *number = psprintf("%d", i);

		nodes[i] = compile(compiler, &elements[i], step(pointer, number, strlen(number)));
	}
	return nodes;
}

/*
 * An object of schemas.  jsonb has its keys ordered by length, then bytes.
 */
static CdpNamedSchema *
named_schemas_of(Compiler *compiler, const JsonbValue *value, const char *pointer,
				 const char *keyword, bool patterns, int *n)
{
	CdpNamedSchema *named;
	JsonbIterator *iterator;
	JsonbValue v;
	JsonbIteratorToken token;

	if (!is_object(value))
		invalid(pointer, keyword, "It must be an object.");
	named = palloc0_array(CdpNamedSchema, Max(JsonContainerSize(value->val.binary.data), 1));
	*n = 0;
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &v, true)) != WJB_DONE)
	{
		CdpNamedSchema *one = &named[*n];

		if (token != WJB_KEY)
			continue;
		one->name = text_of(&v);
		one->namelen = v.val.string.len;
		if (patterns)
			one->pattern = pattern_of(one->name, one->namelen, pointer, keyword);
		(void) JsonbIteratorNext(&iterator, &v, true);
		one->schema = compile(compiler, &v, step(pointer, one->name, one->namelen));
		(*n)++;
	}
	return named;
}

static CdpDependency *
dependencies_of(const JsonbValue *value, const char *pointer, int *n)
{
	CdpDependency *dependencies;
	JsonbIterator *iterator;
	JsonbValue v;
	JsonbIteratorToken token;

	if (!is_object(value))
		invalid(pointer, "dependentRequired", "It must be an object.");
	dependencies = palloc0_array(CdpDependency, Max(JsonContainerSize(value->val.binary.data), 1));
	*n = 0;
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &v, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		dependencies[*n].name = v;
		(void) JsonbIteratorNext(&iterator, &v, true);
		dependencies[*n].required = names_of(&v, pointer, "dependentRequired", &dependencies[*n].n);
		(*n)++;
	}
	return dependencies;
}

/* ---- references ---- */

/*
 * What a JSON pointer leads to in the document; false when nothing.
 */
static bool
follow(Jsonb *document, const char *pointer, JsonbValue *value)
{
	root_value(document, value);
	while (*pointer == '/')
	{
		StringInfoData name;
		JsonbValue *next;

		initStringInfo(&name);
		for (pointer++; *pointer && *pointer != '/'; pointer++)
		{
			if (pointer[0] == '~' && (pointer[1] == '0' || pointer[1] == '1'))
				appendStringInfoChar(&name, *++pointer == '0' ? '~' : '/');
			else
				appendStringInfoChar(&name, *pointer);
		}
		if (is_object(value))
			next = getKeyJsonValueFromContainer(value->val.binary.data, name.data, name.len, NULL);
		else if (is_array(value) && name.len > 0 && name.len < 8 &&
				 strspn(name.data, "0123456789") == name.len)
			next = getIthJsonbValueFromContainer(value->val.binary.data, atoi(name.data));
		else
			return false;
		if (next == NULL)
			return false;
		*value = *next;
	}
	return *pointer == '\0';
}

/* %XX in a fragment; NULL for one that has a zero byte. */
static char *
decode_fragment(const char *fragment)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (; *fragment; fragment++)
	{
		if (fragment[0] == '%' && isxdigit((unsigned char) fragment[1]) &&
			isxdigit((unsigned char) fragment[2]))
		{
			char hex[3] = { fragment[1], fragment[2], '\0' };

			/* which no name in jsonb has, and would end the text */
			if (strcmp(hex, "00") == 0)
				return NULL;
			appendStringInfoChar(&buf, (char) strtol(hex, NULL, 16));
			fragment += 2;
		}
		else
			appendStringInfoChar(&buf, *fragment);
	}
	return buf.data;
}

static CdpSchemaNode *
reference(Compiler *compiler, const JsonbValue *value, const char *pointer)
{
	char *target;
	JsonbValue v;
	ListCell *a;
	ListCell *p;

	if (value->type != jbvString)
		invalid(pointer, "$ref", "It must be a string.");
	target = text_of(value);
	if (target[0] != '#')
		unsupported(pointer, "$ref", "A reference must stay inside the document: \"#\", \"#/…\" or \"#anchor\".");
	target = decode_fragment(target + 1);
	if (target == NULL || !pg_verifymbstr(target, strlen(target), true))
		invalid(pointer, "$ref", "It is not valid text.");
	if (target[0] != '\0' && target[0] != '/')
	{
		forboth(a, compiler->anchors, p, compiler->anchored)
			if (strcmp((char *) lfirst(a), target) == 0)
			{
				target = (char *) lfirst(p);
				(void) follow(compiler->document, target, &v);
				return compile(compiler, &v, target);
			}
		invalid(pointer, "$ref", "There is no such anchor.");
	}
	if (!follow(compiler->document, target, &v))
		invalid(pointer, "$ref", "It leads nowhere.");
	return compile(compiler, &v, target);
}

/*
 * "$anchor" can stand in any subschema, and be used before.
 */
static void
find_anchors(Compiler *compiler, const JsonbValue *value, const char *pointer)
{
	JsonbIterator *iterator;
	JsonbValue v;
	JsonbIteratorToken token;
	int i = 0;

	check_stack_depth();
	if (value->type != jbvBinary)
		return;
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			JsonbValue key = v;

			(void) JsonbIteratorNext(&iterator, &v, true);
			if (is_word(&key, "$anchor") && v.type == jbvString)
			{
				compiler->anchors = lappend(compiler->anchors, text_of(&v));
				compiler->anchored = lappend(compiler->anchored, pstrdup(pointer));
			}
			if (!is_word(&key, "enum") && !is_word(&key, "const"))
				find_anchors(compiler, &v, step(pointer, key.val.string.val, key.val.string.len));
		}
		else if (token == WJB_ELEM)
		{
			char *number = psprintf("%d", i++);

			find_anchors(compiler, &v, step(pointer, number, strlen(number)));
		}
	}
}

/*
 * A schema that judges a value by judging that same value again would never
 * come to an end.
 */
static void
refuse_cycles(CdpSchemaNode *node)
{
	check_stack_depth();
	if (node == NULL || node->checked)
		return;
	if (node->on_way)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid JSON Schema: it refers to itself without going deeper into the value")));
	node->on_way = true;
	refuse_cycles(node->ref);
	for (int i = 0; i < node->nall; i++)
		refuse_cycles(node->all[i]);
	for (int i = 0; i < node->nany; i++)
		refuse_cycles(node->any[i]);
	for (int i = 0; i < node->none; i++)
		refuse_cycles(node->one[i]);
	for (int i = 0; i < node->ndependents; i++)
		refuse_cycles(node->dependents[i].schema);
	refuse_cycles(node->not );
	refuse_cycles(node->if_);
	refuse_cycles(node->then);
	refuse_cycles(node->else_);
	node->on_way = false;
	node->checked = true;
}

/* ---- one schema ---- */

static const char *const notes[] = {
	"$comment", "$schema", "$defs", "$anchor", "title", "description", "default", "examples", "deprecated",
	"readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"
};

static bool
is_note(const char *keyword)
{
	for (int i = 0; i < lengthof(notes); i++)
		if (strcmp(keyword, notes[i]) == 0)
			return true;
	return strncmp(keyword, "x-", 2) == 0;
}

static void
compile_keyword(Compiler *compiler, CdpSchemaNode *node, const char *keyword, JsonbValue *v,
				const char *pointer)
{
	char *below = step(pointer, keyword, strlen(keyword));

#define IS(word) (strcmp(keyword, word) == 0)
	if (IS("type"))
		node->types = types_of(v, pointer);
	else if (IS("enum"))
		node->allowed = elements_of(v, pointer, keyword, &node->nallowed);
	else if (IS("const"))
	{
		node->constant = palloc_object(JsonbValue);
		*node->constant = *v;
	}
	else if (IS("multipleOf"))
	{
		node->multiple_of = number_of(v, pointer, keyword);
		if (!DatumGetBool(DirectFunctionCall2(numeric_gt, NumericGetDatum(node->multiple_of),
											  NumericGetDatum(int64_to_numeric(0)))))
			invalid(pointer, keyword, "It must be greater than 0.");
	}
	else if (IS("minimum"))
		node->minimum = number_of(v, pointer, keyword);
	else if (IS("maximum"))
		node->maximum = number_of(v, pointer, keyword);
	else if (IS("exclusiveMinimum"))
		node->exclusive_minimum = number_of(v, pointer, keyword);
	else if (IS("exclusiveMaximum"))
		node->exclusive_maximum = number_of(v, pointer, keyword);
	else if (IS("minLength"))
		node->min_length = count_of(v, pointer, keyword);
	else if (IS("maxLength"))
		node->max_length = count_of(v, pointer, keyword);
	else if (IS("pattern"))
	{
		if (v->type != jbvString)
			invalid(pointer, keyword, "It must be a string.");
		node->pattern = pattern_of(v->val.string.val, v->val.string.len, pointer, keyword);
	}
	else if (IS("format"))
	{
		if (v->type != jbvString)
			invalid(pointer, keyword, "It must be a string.");
		node->format = CdpFormatByName(v->val.string.val, v->val.string.len);
		if (node->format == NULL)
			unsupported(pointer, keyword, psprintf("The format \"%s\" is not known.", text_of(v)));
	}
	else if (IS("minItems"))
		node->min_items = count_of(v, pointer, keyword);
	else if (IS("maxItems"))
		node->max_items = count_of(v, pointer, keyword);
	else if (IS("uniqueItems"))
	{
		if (v->type != jbvBool)
			invalid(pointer, keyword, "It must be true or false.");
		node->unique_items = v->val.boolean;
	}
	else if (IS("prefixItems"))
		node->prefix = schemas_of(compiler, v, below, keyword, &node->nprefix);
	else if (IS("items"))
		node->items = compile(compiler, v, below);
	else if (IS("contains"))
		node->contains = compile(compiler, v, below);
	else if (IS("minContains"))
		node->min_contains = count_of(v, pointer, keyword);
	else if (IS("maxContains"))
		node->max_contains = count_of(v, pointer, keyword);
	else if (IS("minProperties"))
		node->min_properties = count_of(v, pointer, keyword);
	else if (IS("maxProperties"))
		node->max_properties = count_of(v, pointer, keyword);
	else if (IS("required"))
		node->required = names_of(v, pointer, keyword, &node->nrequired);
	else if (IS("properties"))
		node->properties = named_schemas_of(compiler, v, below, keyword, false, &node->nproperties);
	else if (IS("patternProperties"))
		node->patterns = named_schemas_of(compiler, v, below, keyword, true, &node->npatterns);
	else if (IS("additionalProperties"))
		node->additional = compile(compiler, v, below);
	else if (IS("propertyNames"))
		node->names = compile(compiler, v, below);
	else if (IS("dependentRequired"))
		node->dependencies = dependencies_of(v, pointer, &node->ndependencies);
	else if (IS("dependentSchemas"))
		node->dependents = named_schemas_of(compiler, v, below, keyword, false, &node->ndependents);
	else if (IS("allOf"))
		node->all = schemas_of(compiler, v, below, keyword, &node->nall);
	else if (IS("anyOf"))
		node->any = schemas_of(compiler, v, below, keyword, &node->nany);
	else if (IS("oneOf"))
		node->one = schemas_of(compiler, v, below, keyword, &node->none);
	else if (IS("not"))
		node->not = compile(compiler, v, below);
	else if (IS("if"))
		node->if_ = compile(compiler, v, below);
	else if (IS("then"))
		node->then = compile(compiler, v, below);
	else if (IS("else"))
		node->else_ = compile(compiler, v, below);
	else if (IS("$ref"))
		node->ref = reference(compiler, v, pointer);
	else if (IS("$id") && pointer[0] == '\0')
		/* the name of the document */;
	else if (!is_note(keyword))
		unsupported(pointer, keyword, "See the documentation for the keywords that are known; a note of your own begins with x-.");
#undef IS
}

static CdpSchemaNode *
compile(Compiler *compiler, JsonbValue *value, const char *pointer)
{
	CdpSchemaNode *node;
	JsonbIterator *iterator;
	JsonbValue v;
	JsonbIteratorToken token;
	ListCell *p;
	ListCell *n;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	forboth(p, compiler->pointers, n, compiler->nodes)
		if (strcmp((char *) lfirst(p), pointer) == 0)
			return (CdpSchemaNode *) lfirst(n);
	if (list_length(compiler->nodes) >= MAX_NODES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a JSON Schema can have at most %d subschemas", MAX_NODES)));

	node = palloc0_object(CdpSchemaNode);
	node->nallowed = -1;
	node->min_contains = 1;
	node->max_length = node->max_items = node->max_contains = node->max_properties = -1;
	compiler->pointers = lappend(compiler->pointers, pstrdup(pointer));
	compiler->nodes = lappend(compiler->nodes, node);

	if (value->type == jbvBool)
	{
		node->nothing = !value->val.boolean;
		return node;
	}
	if (!is_object(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid JSON Schema at \"%s\"", pointer),
				 errdetail("A schema is an object, true or false.")));
	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &v, true)) != WJB_DONE)
	{
		char *keyword;

		if (token != WJB_KEY)
			continue;
		keyword = text_of(&v);
		(void) JsonbIteratorNext(&iterator, &v, true);
		compile_keyword(compiler, node, keyword, &v, pointer);
	}
	return node;
}

CdpSchema *
CdpSchemaCompile(Jsonb *schema, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Compiler compiler = { 0 };
	CdpSchema *result = palloc_object(CdpSchema);
	JsonbValue root;

	/* nodes point into the document */
	compiler.document = (Jsonb *) PG_DETOAST_DATUM_COPY(PointerGetDatum(schema));
	root_value(compiler.document, &root);
	find_anchors(&compiler, &root, "");
	result->root = compile(&compiler, &root, "");
	for (int i = 0; i < list_length(compiler.nodes); i++)
		refuse_cycles((CdpSchemaNode *) list_nth(compiler.nodes, i));
	MemoryContextSwitchTo(old);
	return result;
}
