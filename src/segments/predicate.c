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
#include "utils/lsyscache.h"

#include "cdp.h"
#include "identity/account.h"
#include "segments/predicate.h"

#define NAMES_OF_SEGMENTS \
	"SELECT name FROM cdp.segment_definitions WHERE NOT hidden ORDER BY name"

/* What a resolver needs to know. */
typedef struct ResolveContext
{
	const char *text;
	List	   *terms;			/* CdpTerm *, the text's own */
	CdpTraitSet *traits;
	bool		define;
	CdpReferences *references;	/* define: grows */
	List	  **created;		/* define: grows */
	List	  **transient;		/* define without writing: definitions, grows */
	const CdpReferences *known; /* compile */
	const int32 *columns;
	int			ncolumns;
	CdpPredicate *out;			/* compile */
} ResolveContext;

/*
 * The name that may be meant, of those that a query gives; NULL when none is
 * near.
 */
static const char *
nearest_name(const char *wanted, const char *names)
{
	MemoryContext context = CurrentMemoryContext;
	CdpUserContext saved;
	CdpNearest	nearest;

	CdpNearestBegin(&nearest, wanted);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute(names, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a name");
	for (uint64 i = 0; i < SPI_processed; i++)
		CdpNearestTry(&nearest, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	if (nearest.found != NULL)
		nearest.found = MemoryContextStrdup(context, nearest.found);
	SPI_finish();
	CdpRestoreUser(&saved);
	MemoryContextSwitchTo(context);
	return nearest.found;
}

/*
 * Look up a name that a term refers to: a query with the name as $1 gives its
 * id, another one gives all names, for a hint.
 */
static int32
look_up(const CdpTerm *term, const char *query, const char *names,
		const char *missing, const char *text)
{
	Oid			argtypes[] = {TEXTOID};
	Datum		args[1];
	int32		id = 0;
	bool		isnull;
	bool		found;
	CdpUserContext saved;

	args[0] = CStringGetTextDatum(term->name);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(query, 1, argtypes, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a name");
	found = SPI_processed > 0;
	if (found)
		id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
										 1, &isnull));
	SPI_finish();
	CdpRestoreUser(&saved);
	if (!found)
	{
		const char *nearest = nearest_name(term->name, names);

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg(missing, term->name),
				 nearest != NULL ? errhint("Perhaps you meant %s.", quote_literal_cstr(nearest)) : 0,
				 CdpPredicateErrorPosition(text, term->name_location)));
	}
	return id;
}

void
CdpSegmentMissing(const char *name)
{
	const char *nearest = nearest_name(name, NAMES_OF_SEGMENTS);

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("segment \"%s\" does not exist", name),
			 nearest != NULL ? errhint("Perhaps you meant %s.", quote_literal_cstr(nearest)) : 0));
}

int32
CdpSegmentIdByName(const char *name)
{
	CdpTerm		term = {0};

	term.name = unconstify(char *, name);
	term.name_location = -1;
	return look_up(&term, "SELECT id FROM cdp.segment_definitions WHERE name = $1 AND NOT hidden",
				   NAMES_OF_SEGMENTS, "segment \"%s\" does not exist", NULL);
}

/*
 * Does a query with the name as $1 find something?
 */
static bool
finds(const char *query, const char *name)
{
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(name);
	CdpUserContext saved;
	bool		found;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(query, 1, &type, &value, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a name");
	found = SPI_processed > 0;
	SPI_finish();
	CdpRestoreUser(&saved);
	return found;
}

/*
 * A segment of profiles is no set of accounts, and the other way round.  What
 * does not exist is no error here.
 */
static void
check_entity(const char *name, bool accounts, const char *text, int location)
{
	if (finds(accounts ?
			  "SELECT FROM cdp.segment_definitions WHERE name = $1 AND entity = 'profile' AND NOT hidden" :
			  "SELECT FROM cdp.segment_definitions WHERE name = $1 AND entity = 'account'", name))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("segment \"%s\" is of %s", name, accounts ? "profiles" : "accounts"),
				 text == NULL ? errdetail("A segment excludes segments of its own entity.") :
				 accounts ? errhint("Ask about members: any_member(in_segment(%s)).", quote_literal_cstr(name)) :
				 errhint("A segment of profiles can ask for traits of the account: account.…"),
				 text != NULL ? CdpPredicateErrorPosition(text, location) : 0));
}

int32
CdpSegmentIdOfEntity(const char *name, bool accounts)
{
	check_entity(name, accounts, NULL, -1);
	return CdpSegmentIdByName(name);
}

/*
 * A suspended trait has no value: who reads it is suspended, too, rather than
 * that all of its members leave.
 */
static void
check_suspended(ResolveContext *context, const CdpTrait *trait, int location)
{
	const char *why = CdpTraitSuspended(trait);

	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 trait->hidden ? errmsg("%s", why) :
				 errmsg("trait \"%s\" is suspended: %s", trait->name, why),
				 CdpPredicateErrorPosition(context->text, location)));
}

static Node *
trait_var(ResolveContext *context, const CdpTrait *trait, int location)
{
	Var		   *var;

	check_suspended(context, trait, location);
	var = makeVar(1, trait->index + 1, trait->type, -1, trait->collation, 0);

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

	if (term->kind == CDP_TERM_TRAIT)
	{
		Oid			type = term->aggregate == CDP_AGG_SUM ? NUMERICOID :
			term->aggregate == CDP_AGG_LIST ? JSONBOID :
			term->aggregate == CDP_AGG_LAST ? BOOLOID : INT8OID;

		if (!context->define)
		{
			CdpTrait   *trait = CdpTraitById(context->traits, term->id);

			if (trait == NULL || (trait->type != type && CdpTraitSuspended(trait) == NULL))
				elog(ERROR, "hidden trait %d is missing", term->id);
			return trait_var(context, trait, location);
		}
		var = makeVar(1, 1, type, -1, InvalidOid, 0);
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
 * A declared trait that nobody has defined, in a read.
 */
static Node *
transient_var(ResolveContext *context, int32 id, int location)
{
	Oid			type = CdpTransientType(list_nth(*context->transient,
												 id - CDP_TRANSIENT_TRAIT));
	Var		   *var = makeVar(1, 1, type, -1, get_typcollation(type), 0);

	var->location = location;
	return (Node *) var;
}

/*
 * Complain about a name that means nothing, with the one that may be meant.
 */
static void
missing_trait(ResolveContext *context, const char *name, int location)
{
	CdpNearest	nearest;
	CdpUserContext saved;
	MemoryContext oldcontext = CurrentMemoryContext;

	CdpNearestBegin(&nearest, name);
	for (int i = 0; i < context->traits->ntraits; i++)
	{
		if (!context->traits->traits[i]->hidden)
			CdpNearestTry(&nearest, context->traits->traits[i]->name);
	}
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (!context->traits->accounts &&
		SPI_execute("SELECT DISTINCT name FROM cdp.declared_keys ORDER BY name",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the keys of declared traits");
	for (uint64 i = 0; !context->traits->accounts && i < SPI_processed; i++)
		CdpNearestTry(&nearest, SPI_getvalue(SPI_tuptable->vals[i],
											 SPI_tuptable->tupdesc, 1));
	if (nearest.found != NULL)
		nearest.found = MemoryContextStrdup(oldcontext, nearest.found);
	SPI_finish();
	CdpRestoreUser(&saved);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("trait \"%s\" does not exist", name),
			 nearest.found != NULL
			 ? errhint("Perhaps you meant %s.", quote_identifier(nearest.found))
			 : context->traits->accounts
			 ? errhint("Traits of accounts are made by cdp.create_trait(…, entity => 'account'), also those that group calls declare.")
			 : errhint("Traits are listed in cdp.traits; cdp.create_trait() declares one that no entry has brought yet."),
			 CdpPredicateErrorPosition(context->text, location)));
}

char *
CdpPurposeColumn(const char *purpose)
{
	return psprintf("%c%c%s", CDP_HIDDEN_MARK, CDP_HIDDEN_PURPOSE, purpose);
}

/*
 * The trait that a purpose is becomes one of those that are referred to.
 */
static void
refer_to_purpose(const char *purpose, const char *text, int location,
				 CdpReferences *references)
{
	char	   *column = CdpPurposeColumn(purpose);
	int32		id;

	if (references->accounts)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("accounts do not consent"),
				 errdetail("It is persons who do."),
				 text != NULL ? CdpPredicateErrorPosition(text, location) : 0));
	id = CdpPurposeId(purpose);
	if (id == 0)
	{
		const char *nearest = nearest_name(purpose, "SELECT name FROM cdp.purposes ORDER BY name");

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("purpose \"%s\" does not exist", purpose),
				 nearest != NULL
				 ? errhint("Perhaps you meant %s.", quote_literal_cstr(nearest))
				 : errhint("Purposes are listed in cdp.purposes; cdp.create_purpose() makes one."),
				 text != NULL ? CdpPredicateErrorPosition(text, location) : 0));
	}
	for (int i = 0; i < references->nnames; i++)
		if (strcmp(references->names[i], column) == 0)
			return;
	add_name(references, column, id);
}

void
CdpPurposeRefer(const char *purpose, CdpReferences *references)
{
	refer_to_purpose(purpose, NULL, -1, references);
}

int
CdpPurposeReferred(const char *purpose, const CdpReferences *references,
				   CdpTraitSet *traits)
{
	char	   *column = CdpPurposeColumn(purpose);

	for (int i = 0; i < references->nnames; i++)
	{
		CdpTrait   *trait = CdpTraitById(traits, references->traits[i]);

		if (trait != NULL && strcmp(references->names[i], column) == 0)
			return trait->index;
	}
	return -1;
}

/*
 * A trait of the primary account.
 */
static Node *
primary_column(ResolveContext *context, const char *name, int location)
{
	const CdpReferences *known = context->define ? context->references : context->known;
	char	   *full = psprintf(CDP_ACCOUNT_PREFIX "%s", name);
	CdpTraitSet *accounts;
	CdpTrait   *trait = NULL;
	Var		   *var;

	if (context->traits->accounts)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is for segments of profiles", full),
				 errhint("In a segment of accounts, write %s.", quote_identifier(name)),
				 CdpPredicateErrorPosition(context->text, location)));
	accounts = context->define && context->transient == NULL ? CdpAccountTraitSetFresh() :
		CdpAccountTraitSetGet(context->traits->generation);
	for (int i = 0; i < known->nnames && trait == NULL; i++)
		if (strcmp(known->names[i], full) == 0)
			trait = CdpTraitById(accounts, known->traits[i]);
	if (trait == NULL && context->define)
	{
		trait = CdpTraitLookup(accounts, name);
		if (trait != NULL)
			add_name(context->references, full, trait->id);
	}
	if (trait == NULL)
	{
		CdpNearest	nearest;

		CdpNearestBegin(&nearest, name);
		for (int i = 0; i < accounts->ntraits; i++)
			if (!accounts->traits[i]->hidden)
				CdpNearestTry(&nearest, accounts->traits[i]->name);
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("accounts have no trait \"%s\"", name),
				 nearest.found != NULL
				 ? errhint("Perhaps you meant account.%s.", quote_identifier(nearest.found))
				 : errhint("Declare it: cdp.create_trait('%s', type => '…', entity => 'account').", name),
				 CdpPredicateErrorPosition(context->text, location)));
	}
	check_suspended(context, trait, location);
	var = makeVar(OUTER_VAR, CDP_ENV_N + trait->index + 1, trait->type, -1, trait->collation, 0);
	var->location = location;
	if (context->out != NULL)
		context->out->of_primary = bms_add_member(context->out->of_primary, trait->index);
	return (Node *) var;
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
	if (name[0] == CDP_HIDDEN_MARK && name[1] == CDP_HIDDEN_ACCOUNT)
		return primary_column(context, name + 2, location);
	if (name[0] == CDP_HIDDEN_MARK && name[1] == CDP_HIDDEN_PURPOSE)
	{
		if (context->define)
			refer_to_purpose(name + 2, context->text, location, context->references);
	}
	else if (name[0] == CDP_HIDDEN_MARK)
	{
		Node	   *node = CdpEnvironmentColumn(name[1], location);

		if (node == NULL)
			elog(ERROR, "unknown hidden column");
		if (context->out != NULL &&
			(name[1] == CDP_HIDDEN_KINDS || name[1] == CDP_HIDDEN_KNOWN))
			context->out->identity = true;
		return node;
	}

	for (int i = 0; i < known->nnames; i++)
	{
		if (strcmp(known->names[i], name) == 0)
		{
			if (context->transient != NULL && known->traits[i] >= CDP_TRANSIENT_TRAIT)
				return transient_var(context, known->traits[i], location);
			trait = CdpTraitById(context->traits, known->traits[i]);
			if (trait == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_OBJECT),
						 errmsg("trait \"%s\" no longer exists", name),
						 CdpPredicateErrorPosition(context->text, location)));
			return trait_var(context, trait, location);
		}
	}
	if (context->transient != NULL && CdpTraitLookup(context->traits, name) == NULL)
	{
		struct CdpDefinition *definition = CdpTransientDeclared(name);

		if (definition != NULL)
		{
			int32		id = CDP_TRANSIENT_TRAIT + list_length(*context->transient);

			*context->transient = lappend(*context->transient, definition);
			add_name(context->references, name, id);
			return transient_var(context, id, location);
		}
	}
	trait = context->define ?
		CdpTraitResolve(context->traits, name, &created) : NULL;
	if (trait == NULL)
		missing_trait(context, name, location);
	if (created)
		*context->created = list_append_unique_int(*context->created, trait->id);
	add_name(context->references, name, trait->id);
	return trait_var(context, trait, location);
}

static void
refuse_computed(const CdpTerm *term, const char *text)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("changed() is about declared traits, and \"%s\" is computed", term->name),
			 errhint("Ask for the entries that it is computed from, with did() or count_of()."),
			 CdpPredicateErrorPosition(text, term->name_location)));
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

/*
 * The identify calls that write a declared trait, as changed() reads them.
 */
static const char *
calls_of_trait(ResolveContext *context, CdpTerm *term)
{
	const CdpReferences *known = context->references;
	Node	   *column = resolve_column(context, term->name, term->name_location);
	const char *key = NULL;
	char	   *call;

	for (int i = 0; column != NULL && i < known->nnames && key == NULL; i++)
	{
		if (strcmp(known->names[i], term->name) != 0)
			continue;
		key = context->transient != NULL && known->traits[i] >= CDP_TRANSIENT_TRAIT ?
			CdpTransientKey(list_nth(*context->transient,
									 known->traits[i] - CDP_TRANSIENT_TRAIT)) :
			CdpDeclaredKey(CdpTraitById(context->traits, known->traits[i]));
		break;
	}
	if (key == NULL)
		refuse_computed(term, context->text);
	call = psprintf("cdp.declared_write(occurred_at, properties, %s)",
					quote_literal_cstr(key));
	term->value = call;
	term->filter = psprintf("%s IS NOT NULL", call);
	return key;
}

/*
 * What stands before a colon is the kind, or belongs to a group_id.  One that
 * is nearly a kind of accounts, or is one of persons, is a mistake.
 */
static void
check_kind_of_account(ResolveContext *context, const CdpTerm *term)
{
	const char *colon = strchr(term->name, ':');
	CdpKindSet *kinds = CdpKindSetGet(-1);
	CdpKind    *kind;
	CdpNearest	nearest;
	char	   *name;

	if (colon == NULL || colon == term->name)
		return;
	name = pnstrdup(term->name, colon - term->name);
	kind = CdpKindLookup(kinds, name, strlen(name));
	if (kind->registered && kind->account)
		return;
	if (kind->registered)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("identifiers of kind \"%s\" are not of accounts", name),
				 errhint("A " CDP_ACCOUNT_KIND " with a colon is written %s.",
						 quote_literal_cstr(psprintf(CDP_ACCOUNT_KIND ":%s", term->name))),
				 CdpPredicateErrorPosition(context->text, term->name_location)));
	CdpNearestBegin(&nearest, name);
	for (int i = 0; i < CdpKindCount(kinds); i++)
		if (CdpKindByIndex(kinds, i)->account)
			CdpNearestTry(&nearest, CdpKindByIndex(kinds, i)->name);
	if (nearest.found != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("identifier kind \"%s\" is not registered", name),
				 errhint("Perhaps you meant %s; a " CDP_ACCOUNT_KIND " is written %s.",
						 quote_literal_cstr(psprintf("%s%s", nearest.found, colon)),
						 quote_literal_cstr(psprintf(CDP_ACCOUNT_KIND ":%s", term->name))),
				 CdpPredicateErrorPosition(context->text, term->name_location)));
}

/*
 * Who is a member by the domain of an address is so by no entry.
 */
static void
notice_domain(const CdpTerm *term, const CdpIdentifier *account)
{
	char	   *kind = pnstrdup(VARDATA_ANY(account), CdpIdentifierKindLength(account));

	if (finds("SELECT FROM cdp.domain_accounts d WHERE d.kind = $1", kind))
		ereport(NOTICE,
				(errmsg("member_of(%s) is about what entries say", quote_literal_cstr(term->name)),
				 errdetail("Who is a member by the domain of an address of e-mail is not found by it.")));
}

/*
 * The account that member_of() names.
 */
static const char *
account_of_term(ResolveContext *context, CdpTerm *term)
{
	CdpIdentifier *account;

	check_kind_of_account(context, term);
	account = CdpAccountIdentifier(CdpKindSetGet(-1), term->name, strlen(term->name),
								   CDP_ACCOUNT_KIND, strlen(CDP_ACCOUNT_KIND));
	if (account == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" cannot be an account", term->name),
				 errdetail("The kind of identifiers blocks it, or cannot normalise it."),
				 CdpPredicateErrorPosition(context->text, term->name_location)));
	if (context->transient == NULL)
		notice_domain(term, account);
	term->value = "type <> 'leave'";
	return text_to_cstring((text *) account);
}

static int32
hidden_trait(ResolveContext *context, CdpTerm *term, const char *timezone)
{
	/* a sequence looks at several events */
	const char *event = term->aggregate == CDP_AGG_LIST || term->of_account ? NULL : term->name;
	const char *key = term->of_calls ? calls_of_trait(context, term) :
		term->of_account ? account_of_term(context, term) : NULL;
	int32		id;

	if (context->transient != NULL)
	{
		struct CdpDefinition *definition;

		id = CdpHiddenTraitFind(term->aggregate, key, event, term->value, term->filter,
								term->within, timezone, &definition);
		if (definition != NULL)
		{
			id = CDP_TRANSIENT_TRAIT + list_length(*context->transient);
			*context->transient = lappend(*context->transient, definition);
		}
	}
	else
	{
		bool		created = false;

		id = CdpHiddenTrait(term->aggregate, key, event, term->value, term->filter,
							term->within, timezone, &created);
		if (created)
			*context->created = list_append_unique_int(*context->created, id);
	}
	return id;
}

static void
check_about_accounts(const ResolveContext *context, const CdpTerm *term)
{
	if (!context->traits->accounts)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s() is about accounts", term->word),
				 errhint("Use it in a segment of accounts: cdp.create_segment('…', '…', entity => 'account')."),
				 CdpPredicateErrorPosition(context->text, term->location)));
}

/*
 * The hidden segment that stands for a predicate about members.
 */
static int32
unnamed_segment(ResolveContext *context, const CdpTerm *term, const char *timezone)
{
	List	   *read;
	int32		id;

	check_about_accounts(context, term);
	id = CdpSegmentUnnamed(term->name, timezone, &read);
	context->references->trait_ids = list_concat_unique_int(context->references->trait_ids, read);
	/* it may have been made, and the set renewed */
	context->traits = CdpAccountTraitSetFresh();
	return id;
}

/*
 * The hidden trait of accounts that counts members.  What it reads are traits
 * of profiles; segments of accounts have to know of their changes, too.
 */
static int32
members_trait(ResolveContext *context, CdpTerm *term, const char *timezone)
{
	bool		created = false;
	List	   *read;
	ListCell   *lc;
	int32		id;

	check_about_accounts(context, term);
	id = CdpHiddenOverMembers(CdpMembersFilter(term->members, context->terms),
							  term->in_segment < 0 ? 0 :
							  ((CdpTerm *) list_nth(context->terms, term->in_segment))->id,
							  timezone, &created, &read);
	foreach(lc, read)
	{
		CdpTrait   *trait = CdpTraitById(CdpTraitSetFresh(), lfirst_int(lc));

		if (trait != NULL && trait->building)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("a trait that the predicate of %s() reads is being built", term->word),
					 errhint("See cdp.progress; cdp.wait_backfill() waits for it."),
					 CdpPredicateErrorPosition(context->text, term->location)));
		context->references->trait_ids = list_append_unique_int(context->references->trait_ids,
																lfirst_int(lc));
	}
	if (created)
		*context->created = list_append_unique_int(*context->created, id);
	return id;
}

/*
 * Resolve every word of a text.  Hidden traits that do not exist yet are made;
 * or, where nothing may be written, put into *transient.
 */
static void
define(ResolveContext *context, const char *text, const char *timezone, const char *what)
{
	CdpReferences *references = context->references;
	int			nest_level = CdpPinSettings(timezone);
	Node	   *raw = CdpPredicateParse(text);
	Expr	   *expr;
	bool		clock;
	ListCell   *lc;

	context->text = text;
	context->define = true;
	context->terms = CdpVocabularyReplace(raw, text, timezone);

	/* names and types first: an error there is cheaper than one after writes */
	expr = CdpTransformIn(raw, text, resolve_column, context, BOOLOID, what,
						  timezone, NULL);
	(void) CdpClockRewrite(expr, text, &clock);

	foreach(lc, context->terms)
	{
		CdpTerm    *term = (CdpTerm *) lfirst(lc);

		if (context->traits->accounts && term->kind != CDP_TERM_SEGMENT &&
			!term->over_members && !term->of_member)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("segments of accounts have no words about behaviour and identifiers"),
					 errhint("Ask about members with any_member(), all_members() or count_members(), or make a trait of accounts: cdp.create_trait(…, entity => 'account')."),
					 CdpPredicateErrorPosition(text, term->location)));
		switch (term->kind)
		{
			case CDP_TERM_SEGMENT:
				if (!term->unnamed)
					check_entity(term->name, context->traits->accounts && !term->of_member,
								 text, term->name_location);
				term->id = term->unnamed ? unnamed_segment(context, term, timezone)
					: context->traits->accounts && !term->of_member
					? look_up(term, "SELECT id FROM cdp.segment_definitions"
							  " WHERE name = $1 AND entity = 'account'",
							  "SELECT name FROM cdp.segment_definitions"
							  " WHERE entity = 'account' ORDER BY name",
							  "there is no segment \"%s\" of accounts", text)
					: look_up(term, "SELECT id FROM cdp.segment_definitions"
							  " WHERE name = $1 AND entity = 'profile' AND NOT hidden",
							  "SELECT name FROM cdp.segment_definitions"
							  " WHERE entity = 'profile' AND NOT hidden ORDER BY name",
							  "segment \"%s\" does not exist", text);
				references->segment_ids = list_append_unique_int(references->segment_ids,
																 term->id);
				if (term->of_member && !term->unnamed)
					CdpMembersSegmentBuilt(term, text);
				break;
			case CDP_TERM_KIND:
				term->id = look_up(term, "SELECT 0 FROM cdp.identifier_kinds"
								   " WHERE kind = $1 AND entity = 'profile'",
								   "SELECT kind FROM cdp.identifier_kinds"
								   " WHERE entity = 'profile' ORDER BY priority",
								   "identifier kind \"%s\" is not registered", text);
				break;
			case CDP_TERM_TRAIT:
				term->id = term->over_members ? members_trait(context, term, timezone) :
												hidden_trait(context, term, timezone);
				references->trait_ids = list_append_unique_int(references->trait_ids,
															   term->id);
				break;
		}
		add_term(references, term->id);
	}
	CdpUnpinSettings(nest_level);
}

void
CdpPredicateDefine(const char *text, const char *timezone, const char *what,
				   CdpReferences *references, List **created)
{
	ResolveContext context = {0};

	context.references = references;
	context.created = created;
	context.traits = references->accounts ? CdpAccountTraitSetFresh() : CdpTraitSetFresh();
	define(&context, text, timezone, what);
}

void
CdpPredicateProbe(const char *text, const char *timezone, const char *what,
				  CdpTraitSet *traits, CdpReferences *references, List **transient)
{
	ResolveContext context = {0};

	context.references = references;
	context.transient = transient;
	context.traits = traits;
	define(&context, text, timezone, what);
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
	raw = CdpPredicateParse(text);
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
		for (int i = 0; term->of_calls && i < references->nnames; i++)
		{
			CdpTrait   *trait = CdpTraitById(traits, references->traits[i]);

			if (strcmp(references->names[i], term->name) == 0 &&
				trait != NULL && CdpDeclaredKey(trait) == NULL)
				refuse_computed(term, text);
		}
	}
	out->expr = CdpTransformIn(raw, text, resolve_column, &context, BOOLOID, what,
							   timezone, NULL);
	out->expr = CdpClockRewrite(out->expr, text, &out->clock);
	out->pinned = CdpNeedsSettings(out->expr);
	out->safe = !contain_leaked_vars((Node *) out->expr);
	CdpUnpinSettings(nest_level);
}
