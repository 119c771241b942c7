/*-------------------------------------------------------------------------
 *
 * account.c
 *	  Traits of accounts over the traits of their members.
 *
 *	  Such a trait ({"over": "members"}) stands on a hidden derived trait of
 *	  profiles, which says what one member contributes: its value where the
 *	  filter is true, else NULL.  So the names in it, their types, renames and
 *	  dependencies are those of derived traits.  Adding the contributions up is
 *	  the applier's.  The hidden trait's id stands in the column key.
 *
 *	  A trait that counts the members who are in a segment of profiles
 *	  ({"over": "members", "segment": 7}, made for predicates of segments only)
 *	  needs none.  What stands in its place is the segment's id below zero.
 *
 * IDENTIFICATION
 *	  src/traits/account.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/keywords.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parser.h"
#include "parser/scanner.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "cdp.h"
#include "traits/traitset.h"

bool
CdpOverMembers(const CdpDefinition *definition)
{
	JsonbValue v;

	return CdpOfAccounts(definition) && definition->options != NULL &&
		JB_ROOT_IS_OBJECT(definition->options) &&
		getKeyJsonValueFromContainer((JsonbContainer *) &definition->options->root, "over", 4,
									 &v) != NULL &&
		v.type == jbvString && v.val.string.len == 7 &&
		memcmp(v.val.string.val, "members", 7) == 0;
}

/*
 * The segment whose members are counted; 0: none.
 */
static int32
member_segment(const CdpDefinition *definition)
{
	JsonbValue v;

	if (!definition->hidden || definition->options == NULL ||
		getKeyJsonValueFromContainer((JsonbContainer *) &definition->options->root, "segment", 7,
									 &v) == NULL ||
		v.type != jbvNumeric)
		return 0;
	return DatumGetInt32(DirectFunctionCall1(numeric_int4, NumericGetDatum(v.val.numeric)));
}

int32
CdpMemberTrait(const CdpDefinition *definition)
{
	return definition->key == NULL ? 0 : (int32) strtol(definition->key, NULL, 10);
}

static void
refuse(const CdpDefinition *definition, const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a trait over members takes no \"%s\"", argument),
			 errdetail("Its value and filter are expressions over the traits of members.")));
}

static void
check_options(const Jsonb *options)
{
	JsonbIterator *it = JsonbIteratorInit((JsonbContainer *) &options->root);
	JsonbValue v;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(v.val.string.val, v.val.string.len);
		if (strcmp(name, "over") != 0 && strcmp(name, "rollup") != 0 &&
			strcmp(name, "announce") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a trait over members takes no option \"%s\"", name)));
	}
}

/*
 * Is it one expression over the traits of members, and of that type?  Asked of
 * what the user wrote, so that errors point into that.
 */
static void
check_part(const CdpDefinition *definition, const char *text, const char *part, Oid type)
{
	CdpNewDerived columns = { .set = CdpTraitSetFresh(), .name = "_member", .hidden = definition->hidden };

	/* what a predicate asks of members has no name */
	(void) CdpTransformIn(CdpParseRaw(text), text, CdpNewDerivedColumn, &columns, type,
						  definition->hidden ? psprintf("%s over members", part) :
											   psprintf("%s of trait \"%s\"", part, definition->name),
						  definition->timezone, NULL);
}

/* What is put in front of the filter and the value, and behind them. */
#define MEMBER_BEGIN "CASE WHEN true"
#define MEMBER_AND " AND ("
#define MEMBER_THEN " THEN ("
#define MEMBER_CLOSE "\n)"

const char CdpMemberExpression[] = "what a member contributes to a trait of accounts";

bool
CdpIsMemberExpression(const CdpDefinition *definition)
{
	return definition->hidden && definition->expression != NULL &&
		strncmp(definition->expression, MEMBER_BEGIN, strlen(MEMBER_BEGIN)) == 0;
}

/*
 * An error at this position (characters, from one on) of a hidden trait's
 * expression: the filter or value that it is in, as the user wrote it.  What is in
 * brackets that are in no others is a part: each has been read as one expression.
 */
char *
CdpMemberPart(const char *text, int *position)
{
	uint16 *codes = palloc0(sizeof(uint16) * ScanKeywords.num_keywords);
	core_yy_extra_type extra;
	core_yyscan_t scanner = scanner_init(text, &extra, &ScanKeywords, codes);
	const char *at = text;
	const char *begin = text;
	char *part = NULL;
	int depth = 0;
	core_YYSTYPE value;
	YYLTYPE location;
	int token;

	for (int i = 0; i < ScanKeywords.num_keywords; i++)
		codes[i] = ' ';
	extra.standard_conforming_strings = true;
	extra.escape_string_warning = false;
	extra.backslash_quote = BACKSLASH_QUOTE_SAFE_ENCODING;
	for (int i = 1; i < *position && *at != '\0'; i++)
		at += pg_mblen(at);
	while (part == NULL && (token = core_yylex(&value, &location, scanner)) != 0)
	{
		if (token == '(' && depth++ == 0)
			begin = text + location + 1;
		else if (token == ')' && --depth == 0)
		{
			/* the line that closes it begins before the bracket */
			const char *end = text + location - 1;

			/* what encloses it is at fault: all of it */
			if (at <= end)
				part = pnstrdup(begin, end - begin);
		}
	}
	scanner_finish(scanner);
	if (part == NULL)
		return pstrdup(text);
	*position = at < begin ? 1 : pg_mbstrlen_with_len(begin, at - begin) + 1;
	return part;
}

/*
 * Check the definition, and define the hidden trait of members.
 */
void
CdpPrepareOverMembers(CdpDefinition *definition)
{
	CdpDefinition hidden = { 0 };
	StringInfoData text;
	List *depends;

	if (member_segment(definition) != 0)
	{
		definition->key = psprintf("%d", -member_segment(definition));
		definition->type = "bigint";
		return;
	}
	switch (definition->aggregate)
	{
		case CDP_AGG_COUNT:
		case CDP_AGG_SUM:
		case CDP_AGG_AVG:
		case CDP_AGG_MIN:
		case CDP_AGG_MAX:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("aggregate %s cannot be taken over members",
							CdpAggregateName(definition->aggregate)),
					 errhint("Over members there are count, sum, avg, min and max.")));
	}
	if (definition->event != NULL)
		refuse(definition, "event");
	if (definition->each != NULL)
		refuse(definition, "each");
	if (definition->within != NULL)
		refuse(definition, "within");
	if (definition->older_than != NULL)
		refuse(definition, "older_than");
	if (definition->has_since)
		refuse(definition, "since");
	check_options(definition->options);
	if (definition->value == NULL && definition->aggregate != CDP_AGG_COUNT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("aggregate %s needs a \"value\"",
						CdpAggregateName(definition->aggregate))));

	/* each text is one expression of its own before they are put together */
	if (definition->value != NULL)
		check_part(definition, definition->value, "value",
				   definition->aggregate == CDP_AGG_COUNT ? InvalidOid : NUMERICOID);
	if (definition->filter != NULL)
		check_part(definition, definition->filter, "filter", BOOLOID);
	initStringInfo(&text);
	appendStringInfoString(&text, MEMBER_BEGIN);
	if (definition->filter != NULL)
		appendStringInfo(&text, MEMBER_AND "%s" MEMBER_CLOSE, definition->filter);
	if (definition->aggregate == CDP_AGG_COUNT)
	{
		if (definition->value != NULL)
			appendStringInfo(&text, MEMBER_AND "%s" MEMBER_CLOSE " IS NOT NULL", definition->value);
		appendStringInfoString(&text, " THEN 1 END");
	}
	else
		appendStringInfo(&text, MEMBER_THEN "%s" MEMBER_CLOSE " END", definition->value);

	hidden.name = "_member";
	hidden.hidden = definition->hidden;
	hidden.aggregate = CDP_AGG_EXPRESSION;
	hidden.expression = text.data;
	hidden.type = "numeric";
	hidden.entity = "profile";
	hidden.timezone = definition->timezone;
	hidden.owner = definition->owner ? definition->owner : GetUserNameFromId(GetUserId(), false);
	depends = CdpDefinitionPrepare(&hidden);
	hidden.name = NULL;
	hidden.hidden = true;
	hidden.id = CdpDefinitionWrite(&hidden, 0);
	CdpDependsSet("trait", hidden.id, depends);
	definition->key = psprintf("%d", hidden.id);
	definition->type = definition->aggregate == CDP_AGG_COUNT ? "bigint" : "numeric";
}

/*
 * The definition, which may have another id now, reads its hidden trait and
 * no other one.
 */
void
CdpMemberTraitDepends(const CdpDefinition *definition, int32 old_id, int32 id)
{
	if (!CdpOfAccounts(definition))
		return;
	if (old_id != 0)
		CdpDependsSet("account", old_id, NIL);
	if (CdpOverMembers(definition) && member_segment(definition) == 0)
		CdpDependsSet("account", id, list_make1_int(CdpMemberTrait(definition)));
	if (old_id != 0)
		CdpHiddenTraitsPrune();
}

/*
 * A trait of members has another name: so the texts of who is over it.
 */
void
CdpMemberTraitRename(int32 hidden_id, const char *from, const char *to)
{
	List *ids = CdpDefinitionIds("SELECT id FROM cdp.definition_depends"
								 " WHERE trait_id = $1 AND kind = 'account'",
								 hidden_id);
	CdpTraitSet *set = CdpAccountTraitSetFresh();
	ListCell *lc;

	foreach(lc, ids)
	{
		CdpTrait *trait = CdpTraitById(set, lfirst_int(lc));
		CdpDefinition changed;

		if (trait == NULL)
			continue;
		changed = *trait->rules->definition;
		if (changed.value != NULL)
			changed.value = CdpRenameColumn(changed.value, from, to);
		if (changed.filter != NULL)
			changed.filter = CdpRenameColumn(changed.filter, from, to);
		(void) CdpDefinitionWrite(&changed, changed.id);
	}
}

/*
 * A hidden trait that counts members; see traits.h.
 */
int32
CdpHiddenOverMembers(const char *filter, int32 segment, const char *timezone, bool *created,
					 List **read)
{
	static const char *const same =
		"SELECT t.id FROM cdp.trait_definitions t"
		" WHERE t.hidden AND t.entity = 'account' AND t.aggregate = 'count'"
		" AND t.filter IS NOT DISTINCT FROM $1 AND t.timezone = $2 AND t.owner = $3"
		" AND t.options = $4 AND t.id NOT IN (SELECT m.id FROM cdp.missed_traits m)"
		" ORDER BY t.id LIMIT 1";
	CdpDefinition definition = { 0 };
	Oid types[] = { TEXTOID, TEXTOID, TEXTOID, JSONBOID };
	Datum values[4] = { 0 };
	char nulls[5] = "    ";
	const char *options = segment == 0 ? "{\"over\": \"members\"}" :
										 psprintf("{\"over\": \"members\", \"segment\": %d}", segment);
	CdpUserContext saved;
	bool isnull;

	CdpApplierLock();
	definition.name = "_members";
	definition.hidden = true;
	definition.aggregate = CDP_AGG_COUNT;
	definition.filter = filter ? pstrdup(filter) : NULL;
	definition.timezone = pstrdup(timezone ? timezone : "UTC");
	definition.entity = "account";
	definition.owner = GetUserNameFromId(GetUserId(), false);
	definition.options = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(options)));
	if (filter != NULL)
		values[0] = CStringGetTextDatum(filter);
	else
		nulls[0] = 'n';
	values[1] = CStringGetTextDatum(definition.timezone);
	values[2] = CStringGetTextDatum(definition.owner);
	values[3] = JsonbPGetDatum(definition.options);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(same, lengthof(types), types, values, nulls, false, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not look for a hidden trait");
	if (SPI_processed > 0)
		definition.id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
													SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	CdpRestoreUser(&saved);
	*created = definition.id == 0;
	if (*created)
	{
		(void) CdpDefinitionPrepare(&definition);
		definition.name = NULL;
		definition.id = CdpDefinitionWrite(&definition, 0);
		CdpMemberTraitDepends(&definition, 0, definition.id);
		CdpGenerationBump();
	}
	*read = CdpDefinitionIds("SELECT r.trait_id FROM cdp.definition_depends m"
							 " JOIN cdp.definition_depends r ON r.kind = 'trait' AND r.id = m.trait_id"
							 " WHERE m.kind = 'account' AND m.id = $1",
							 definition.id);
	return definition.id;
}
