/*-------------------------------------------------------------------------
 *
 * predicate.c
 *	  From the text of a predicate to an expression over trait values.
 *
 *	  A text is read twice.  When a definition is made, CdpPredicateDefine
 *	  resolves every word and remembers what it stood for: the ids of hidden
 *	  traits, segments and traits are stored beside the text.  Later
 *	  CdpPredicateCompile reads the text again and binds words by those ids,
 *	  so that nothing that is created afterwards changes what an old text
 *	  means.
 *
 *	  Both run under the settings of the definition (time zone and so on),
 *	  because the parser already evaluates literals.
 *
 * IDENTIFICATION
 *	  src/segments/predicate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "utils/builtins.h"

#include "cdp.h"
#include "segments/predicate.h"

/* What a resolver needs to know. */
typedef struct ResolveContext
{
	const char *text;
	List	   *terms;			/* CdpTerm *, the text's own */
	CdpTraitSet *traits;
	bool		define;
	CdpReferences *references;	/* define: grows */
	List	  **created;		/* define: grows */
	const CdpReferences *known; /* compile */
	const int32 *columns;
	int			ncolumns;
	CdpPredicate *out;			/* compile */
} ResolveContext;

static int32
segment_id_by_name(const char *name, const char *text, int location)
{
	Oid			argtypes[] = {TEXTOID};
	Datum		args[1];
	int32		id = 0;
	bool		isnull;
	CdpUserContext saved;

	args[0] = CStringGetTextDatum(name);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT id FROM cdp.segment_definitions WHERE name = $1",
							  1, argtypes, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a segment");
	if (SPI_processed > 0)
		id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
										 SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	CdpRestoreUser(&saved);
	if (id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("segment \"%s\" does not exist", name),
				 CdpPredicateErrorPosition(text, location)));
	return id;
}

static Node *
trait_var(ResolveContext *context, const CdpTrait *trait, int location)
{
	Var		   *var = makeVar(1, trait->index + 1, trait->type, -1, trait->collation, 0);

	var->location = location;
	if (context->out != NULL)
		context->out->traits = bms_add_member(context->out->traits, trait->index);
	return (Node *) var;
}

/*
 * The expression that stands for term n.  While a text is being defined its
 * hidden trait may not be in the set yet; then only the type matters.
 */
static Node *
term_var(ResolveContext *context, int n, int location)
{
	CdpTerm    *term;
	Var		   *var;

	if (n >= list_length(context->terms))
		elog(ERROR, "hidden column %d out of range", n);
	term = (CdpTerm *) list_nth(context->terms, n);

	if (term->kind == CDP_TERM_COUNT)
	{
		if (!context->define)
		{
			CdpTrait   *trait = CdpTraitById(context->traits, term->id);

			if (trait == NULL || trait->type != INT8OID)
				elog(ERROR, "hidden trait %d is missing", term->id);
			return trait_var(context, trait, location);
		}
		var = makeVar(1, 1, INT8OID, -1, InvalidOid, 0);
	}
	else
	{
		int			column = 0;

		if (!context->define)
		{
			while (column < context->ncolumns && context->columns[column] != term->id)
				column++;
			if (column == context->ncolumns)
				elog(ERROR, "segment %d is missing", term->id);
			context->out->segments = bms_add_member(context->out->segments, column);
		}
		var = makeVar(INNER_VAR, column + 1, BOOLOID, -1, InvalidOid, 0);
	}
	var->location = location;
	return (Node *) var;
}

static void
add_name(CdpReferences *references, const char *name, int32 trait_id)
{
	if (references->nnames == 0)
	{
		references->names = palloc(sizeof(char *));
		references->traits = palloc(sizeof(int32));
	}
	else
	{
		references->names = repalloc(references->names,
									 (references->nnames + 1) * sizeof(char *));
		references->traits = repalloc(references->traits,
									  (references->nnames + 1) * sizeof(int32));
	}
	references->names[references->nnames] = pstrdup(name);
	references->traits[references->nnames] = trait_id;
	references->nnames++;
	references->trait_ids = list_append_unique_int(references->trait_ids, trait_id);
}

/*
 * CdpColumnResolver of predicates.
 */
static Node *
resolve_column(void *arg, const char *name, int location)
{
	ResolveContext *context = (ResolveContext *) arg;
	const CdpReferences *known = context->define ? context->references : context->known;
	CdpTrait   *trait;
	bool		created = false;
	int			n = CdpHiddenColumn(name);

	if (n >= 0)
		return term_var(context, n, location);

	for (int i = 0; i < known->nnames; i++)
	{
		if (strcmp(known->names[i], name) == 0)
		{
			trait = CdpTraitById(context->traits, known->traits[i]);
			if (trait == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_OBJECT),
						 errmsg("trait \"%s\" no longer exists", name),
						 CdpPredicateErrorPosition(context->text, location)));
			return trait_var(context, trait, location);
		}
	}
	trait = context->define ?
		CdpTraitResolve(context->traits, name, &created) : NULL;
	if (trait == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("trait \"%s\" does not exist", name),
				 errhint("Traits are listed in cdp.traits; cdp.create_trait() declares one that no entry has brought yet."),
				 CdpPredicateErrorPosition(context->text, location)));
	if (created)
		*context->created = list_append_unique_int(*context->created, trait->id);
	add_name(context->references, name, trait->id);
	return trait_var(context, trait, location);
}

static void
add_term(CdpReferences *references, int32 id)
{
	if (references->nterms == 0)
		references->terms = palloc(sizeof(int32));
	else
		references->terms = repalloc(references->terms,
									 (references->nterms + 1) * sizeof(int32));
	references->terms[references->nterms++] = id;
}

void
CdpPredicateDefine(const char *text, const char *timezone, const char *what,
				   CdpReferences *references, List **created)
{
	ResolveContext context = {0};
	int			nest_level = CdpPinSettings(timezone);
	Node	   *raw = CdpParseRaw(text);
	ListCell   *lc;

	context.text = text;
	context.define = true;
	context.references = references;
	context.created = created;
	context.traits = CdpTraitSetFresh();
	context.terms = CdpVocabularyReplace(raw, text, timezone);

	/* names and types first: an error there is cheaper than one after writes */
	(void) CdpTransformIn(raw, text, resolve_column, &context, BOOLOID, what,
						  timezone, NULL);

	foreach(lc, context.terms)
	{
		CdpTerm    *term = (CdpTerm *) lfirst(lc);

		if (term->kind == CDP_TERM_SEGMENT)
		{
			term->id = segment_id_by_name(term->name, text, term->name_location);
			references->segment_ids = list_append_unique_int(references->segment_ids,
															 term->id);
		}
		else
		{
			bool		is_new = false;

			term->id = CdpHiddenTrait(CDP_AGG_COUNT, term->name, NULL, term->filter,
									  term->within, timezone, &is_new);
			if (is_new)
				*created = list_append_unique_int(*created, term->id);
			references->trait_ids = list_append_unique_int(references->trait_ids,
														   term->id);
		}
		add_term(references, term->id);
	}
	CdpUnpinSettings(nest_level);
}

void
CdpPredicateCompile(const char *text, const char *timezone, const char *what,
					const CdpReferences *references, int *next_term,
					CdpTraitSet *traits, const int32 *columns, int ncolumns,
					CdpPredicate *out)
{
	ResolveContext context = {0};
	int			nest_level;
	Node	   *raw;
	ListCell   *lc;

	memset(out, 0, sizeof(CdpPredicate));
	out->safe = true;
	if (text == NULL)
		return;

	nest_level = CdpPinSettings(timezone);
	raw = CdpParseRaw(text);
	context.text = text;
	context.known = references;
	context.traits = traits;
	context.columns = columns;
	context.ncolumns = ncolumns;
	context.out = out;
	context.terms = CdpVocabularyReplace(raw, text, NULL);
	foreach(lc, context.terms)
	{
		CdpTerm    *term = (CdpTerm *) lfirst(lc);

		if (*next_term >= references->nterms)
			elog(ERROR, "terms of a predicate do not fit its text");
		term->id = references->terms[(*next_term)++];
	}
	out->expr = CdpTransformIn(raw, text, resolve_column, &context, BOOLOID, what,
							   timezone, NULL);
	out->pinned = CdpNeedsSettings(out->expr);
	out->safe = !contain_leaked_vars((Node *) out->expr);
	CdpUnpinSettings(nest_level);
}
