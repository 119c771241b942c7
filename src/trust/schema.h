/*-------------------------------------------------------------------------
 *
 * schema.h
 *	  JSON Schema, draft 2020-12: schemas are compiled once, and judge jsonb.
 *
 *	  Which keywords are known, and what is refused, is in doc/json-schema.md.
 *
 * IDENTIFICATION
 *	  src/trust/schema.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_TRUST_SCHEMA_H
#define CDP_TRUST_SCHEMA_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

typedef struct CdpSchema CdpSchema;

/* Where a value breaks which keyword. */
typedef struct CdpSchemaViolation
{
	char *path; /* JSON pointer (RFC 6901) into the value, "": all of it */
	const char *keyword;
} CdpSchemaViolation;

/*
 * Compile a schema into a context.  Error (invalid_parameter_value) for one
 * that is not valid, (feature_not_supported) for one that is not supported.
 */
extern CdpSchema *CdpSchemaCompile(Jsonb *schema, MemoryContext context);

/* The keyword when judging takes too much; it is the only violation then, at "". */
#define CDP_SCHEMA_ERROR "error"

/*
 * Is the value valid?  violations: all that is wrong, CdpSchemaViolation *, in
 * the current context; NULL: not asked, so that the first is enough.
 */
extern bool CdpSchemaValidate(CdpSchema *schema, Jsonb *instance, List **violations);

/* ---- between the files of the schema engine ---- */

/* Types of a value, as a set; integers are numbers too. */
#define CDP_JSON_NULL 0x01
#define CDP_JSON_BOOLEAN 0x02
#define CDP_JSON_NUMBER 0x04
#define CDP_JSON_INTEGER 0x08
#define CDP_JSON_STRING 0x10
#define CDP_JSON_ARRAY 0x20
#define CDP_JSON_OBJECT 0x40

typedef bool (*CdpFormatCheck)(const char *value, int len);

typedef struct CdpSchemaNode CdpSchemaNode;

typedef struct CdpPattern
{
	text *regexp;
	bool looks_around; /* then time grows with the square of the length */
} CdpPattern;

/* So many bytes are matched against a pattern that looks around. */
#define CDP_MAX_LOOKED_AROUND 10000

typedef struct CdpNamedSchema
{
	const char *name;
	int namelen;
	CdpPattern *pattern; /* of patternProperties; else NULL */
	CdpSchemaNode *schema;
} CdpNamedSchema;

typedef struct CdpDependency
{
	JsonbValue name;
	int n;
	JsonbValue *required;
} CdpDependency;

/* A schema or subschema; what is absent is NULL, 0 or -1. */
struct CdpSchemaNode
{
	bool nothing; /* the schema false */
	bool compiled;
	bool on_way; /* while cycles are looked for */
	bool checked;
	int types; /* 0: any */
	JsonbValue *constant;
	int nallowed; /* enum; -1: no such keyword */
	JsonbValue *allowed;
	Numeric multiple_of;
	Numeric minimum;
	Numeric maximum;
	Numeric exclusive_minimum;
	Numeric exclusive_maximum;
	int64 min_length;
	int64 max_length;
	CdpPattern *pattern;
	CdpFormatCheck format;
	int64 min_items;
	int64 max_items;
	bool unique_items;
	int nprefix;
	CdpSchemaNode **prefix;
	CdpSchemaNode *items;
	CdpSchemaNode *contains;
	int64 min_contains;
	int64 max_contains;
	int64 min_properties;
	int64 max_properties;
	int nrequired;
	JsonbValue *required;
	int nproperties; /* ordered by length, then bytes */
	CdpNamedSchema *properties;
	int npatterns;
	CdpNamedSchema *patterns;
	CdpSchemaNode *additional;
	CdpSchemaNode *names;
	int ndependencies;
	CdpDependency *dependencies;
	int ndependents;
	CdpNamedSchema *dependents;
	int nall;
	CdpSchemaNode **all;
	int nany;
	CdpSchemaNode **any;
	int none;
	CdpSchemaNode **one;
	CdpSchemaNode * not ;
	CdpSchemaNode *if_;
	CdpSchemaNode *then;
	CdpSchemaNode *else_;
	CdpSchemaNode *ref;
};

struct CdpSchema
{
	CdpSchemaNode *root;
};

/* The check of a format; NULL when it is not known. */
extern CdpFormatCheck CdpFormatByName(const char *name, int len);
/*
 * A pattern of ECMAScript as PostgreSQL's regular expressions have it; NULL,
 * with *why, when it has something that they do not, or what can take forever.
 */
extern CdpPattern *CdpPatternTranslate(const char *pattern, int len, const char **why);
extern bool CdpPatternMatches(CdpPattern *pattern, const char *value, int len);

#endif /* CDP_TRUST_SCHEMA_H */
