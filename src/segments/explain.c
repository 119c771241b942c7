/*-------------------------------------------------------------------------
 *
 * explain.c
 *	  Why is this profile, or account, in a segment, and when does that change
 *	  if nothing but time passes.
 *
 *	  What is told are rows that can be looked at again: they are first as of
 *	  now, then as of the instants at which something changes by itself, one
 *	  after the other, until each row has become another or nothing changes any
 *	  more.  Those are the instants to which timers are set.
 *
 * IDENTIFICATION
 *	  src/segments/explain.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "identity/account.h"
#include "segments/predicate.h"
#include "sensitive.h"
#include "statement.h"

/* Instants that are looked at, and timers of members that are known ahead. */
#define MAX_STEPS	1000

/* Profiles whose timers say when what an account, or a profile's one, reads of them changes. */
static CdpStatement timers_of_members = {
	"SELECT t.at FROM cdp.timers t WHERE t.at > $2 AND t.profile_id IN"
	" (SELECT i.profile_id FROM cdp.account_nodes n JOIN cdp.identities i ON i.node_id = n.node_id"
	" WHERE n.account_id = $1 OR n.account_id IN (SELECT m.account_id FROM cdp.account_nodes m"
	" JOIN cdp.identities j ON j.node_id = m.node_id WHERE j.profile_id = $1))"
	" ORDER BY t.at LIMIT " CppAsString2(MAX_STEPS),
	{ "int8", "timestamptz" }
};

typedef enum RowKind
{
	ROW_FIXED,					/* time changes nothing about it */
	ROW_TRAIT,
	ROW_SEGMENT,
	ROW_CONDITION,
	ROW_CONSENT
} RowKind;

typedef struct Row
{
	const char *term;
	const char *value;
	const char *needed;
	RowKind		kind;
	int32		id;				/* of the trait or segment */
	Expr	   *expr;			/* of the condition */
	TimestampTz changes;		/* first instant at which its value is another; DT_NOEND: none known */
} Row;

typedef struct Explanation
{
	CdpTraitSet *traits;
	CdpSegmentSet *set;
	int			column;			/* of the segment */
	CdpSegmentRules *rules;
	Bitmapset  *depends;		/* traits that its members follow from */
	CdpProfileNodes nodes;		/* of a profile */
	CdpProfileValues values;	/* as of the instant */
	CdpProfileEval profile;
	TimestampTz next;			/* the next instant that matters */
	int			next_term;
	bool		primary;		/* its members depend on their primary account */
	bool		needs;			/* say what must stay as it is, or become true */
	List	   *rows;			/* Row * */
} Explanation;

/* When what members contribute to the account that was read last changes by itself. */
static TimestampTz members_next;

static CdpMembersNow *
read_members(CdpTraitSet *set, const int64 *accounts, int n, TimestampTz now)
{
	CdpMembersNow *members = CdpMembersNowRead(set, accounts, n, now);

	members_next = members->next;
	return members;
}

static bool
is_in(const int32 *ids, int n, int32 id)
{
	for (int i = 0; i < n; i++)
	{
		if (ids[i] == id)
			return true;
	}
	return false;
}

static const char *
trait_value(Explanation *explanation, int32 id)
{
	CdpTraitSet *traits = explanation->traits;
	const CdpProfileValues *values = &explanation->values;
	CdpTrait   *trait = CdpTraitById(traits, id);
	Oid			output;
	bool		varlena;

	if (trait == NULL && !traits->accounts)
	{
		traits = CdpAccountTraitSetGet(traits->generation);
		trait = CdpTraitById(traits, id);
		values = explanation->profile.primary;
	}
	if (trait == NULL || values == NULL || values->isnull[trait->index])
		return NULL;
	if (CdpAnythingHidden() && CdpTraitHidden(traits, trait))
		return CDP_MASK;
	getTypeOutputInfo(trait->type, &output, &varlena);
	return OidOutputFunctionCall(output, values->values[trait->index]);
}

/*
 * As a predicate writes it.
 */
static const char *
name_of_trait(const char *name)
{
	int			length = strlen(CDP_ACCOUNT_PREFIX);

	if (name[0] == CDP_HIDDEN_MARK)
		return psprintf("consented(%s)", quote_literal_cstr(name + 2));
	if (strncmp(name, CDP_ACCOUNT_PREFIX, length) == 0)
		return psprintf(CDP_ACCOUNT_PREFIX "%s", quote_identifier(name + length));
	return quote_identifier(name);
}

/*
 * What an expression amounts to: true, false, NULL, or the error it raises.
 */
static const char *
outcome(Explanation *explanation, Expr *expr)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	int			ncolumns = explanation->set->columns->n;
	Datum	   *member = palloc(ncolumns * sizeof(Datum));
	bool	   *never_null = palloc0(ncolumns * sizeof(bool));
	const char *volatile result = NULL;
	Oid			owner = get_role_oid(explanation->rules->owner, true);
	Oid			userid;
	int			sec_context;

	if (!OidIsValid(owner))
		return NULL;

	for (int i = 0; i < ncolumns; i++)
		member[i] = BoolGetDatum(is_in(explanation->profile.after,
									   explanation->profile.nafter,
									   explanation->set->columns->ids[i]));
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcontext);
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_RESTRICTED_OPERATION);
	PG_TRY();
	{
		bool		isnull;
		bool		value = CdpPredicateValue(explanation->set->columns->slots, ExecInitExpr(expr, NULL),
											  &explanation->values, member, never_null,
											  &isnull);

		result = isnull ? NULL : value ? "true" : "false";
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = oldowner;
		if (!CdpErrorIsLocal(error->sqlerrcode))
			ReThrowError(error);
		result = psprintf("error: %s", error->message);
	}
	PG_END_TRY();
	SetUserIdAndSecContext(userid, sec_context);
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;
	return result;
}

/*
 * What a row is now.
 */
static const char *
look(Explanation *explanation, const Row *row)
{
	switch (row->kind)
	{
		case ROW_TRAIT:
			return trait_value(explanation, row->id);
		case ROW_SEGMENT:
			return is_in(explanation->profile.after, explanation->profile.nafter, row->id) ?
				"true" : "false";
		case ROW_CONDITION:
			return outcome(explanation, row->expr);
		case ROW_CONSENT:
			return CdpConsentGranted(&explanation->values, explanation->rules->consent) ?
				"true" : "false";
		default:
			return row->value;
	}
}

/*
 * One more row.  needed: what would have to change about it; NULL: nothing.
 */
static Row *
add_row(Explanation *explanation, const char *term, const char *needed, RowKind kind, int32 id,
		Expr *expr)
{
	Row		   *row = palloc0(sizeof(Row));

	row->term = pstrdup(term);
	row->needed = needed;
	row->kind = kind;
	row->id = id;
	row->expr = expr;
	row->changes = DT_NOEND;
	row->value = look(explanation, row);
	explanation->rows = lappend(explanation->rows, row);
	return row;
}

/*
 * The same for what the texts say, in which a term may be a condition, too, and
 * both may occur twice: it is told once, with what would have to change.
 */
static void
tell(Explanation *explanation, const char *term, const char *needed, RowKind kind, int32 id,
	 Expr *expr)
{
	ListCell   *lc;

	foreach(lc, explanation->rows)
	{
		Row		   *row = (Row *) lfirst(lc);

		if (strcmp(row->term, term) != 0)
			continue;
		if (row->needed == NULL)
			row->needed = needed;
		return;
	}
	(void) add_row(explanation, term, needed, kind, id, expr);
}

/*
 * Compile a part of a text, whose first term is the one of that number.
 */
static Expr *
compile_part(Explanation *explanation, const char *part, int *next_term)
{
	CdpSegmentRules *rules = explanation->rules;
	CdpSegmentColumns *columns = explanation->set->columns;
	CdpPredicate compiled;

	CdpPredicateCompile(part, rules->timezone, "predicate", &rules->references, next_term,
						explanation->traits, columns->ids, columns->n, &compiled);
	return compiled.expr;
}

/*
 * The terms of one text, in the order in which they stand there.  What is kept
 * for a sequence or a change is a list: whether the call is true is told.
 */
static void
explain_terms(Explanation *explanation, const char *text)
{
	ListCell   *lc;

	foreach(lc, CdpVocabularyReplace(CdpPredicateParse(text), text, explanation->rules->timezone))
	{
		CdpTerm    *term = (CdpTerm *) lfirst(lc);
		int			number = explanation->next_term++;
		int32		id = explanation->rules->references.terms[number];

		/* what is asked of members has no value of the account's */
		if (term->of_member)
			continue;
		if (term->kind == CDP_TERM_TRAIT &&
			(term->aggregate == CDP_AGG_LIST || term->of_account))
		{
			int			begin;
			int			end;
			char	   *call;

			CdpPredicateCallSpan(text, term->location, &begin, &end);
			call = pnstrdup(text + term->location, end + 1 - term->location);
			tell(explanation, call, NULL, ROW_CONDITION, 0,
				 compile_part(explanation, call, &number));
		}
		else if (term->kind == CDP_TERM_TRAIT)
			tell(explanation, CdpTermText(term), NULL, ROW_TRAIT, id, NULL);
		else if (term->kind == CDP_TERM_SEGMENT)
			tell(explanation, CdpTermText(term), NULL, ROW_SEGMENT, id, NULL);
	}
}

static bool
is_true(const char *value)
{
	return value != NULL && strcmp(value, "true") == 0;
}

/*
 * The parts of a text, one by one, and of those in parentheses the parts that
 * are joined by OR.  member: the whole is true, and that is why somebody is in.
 * False when there is but one part.
 */
static bool
explain_conditions(Explanation *explanation, const char *text, int next_term, bool member,
				   bool nested)
{
	bool		any;
	List	   *parts = CdpPredicateConditions(text, &any);
	Expr	  **conditions = palloc(sizeof(Expr *) * list_length(parts));
	const char **values = palloc(sizeof(char *) * list_length(parts));
	int		   *terms = palloc(sizeof(int) * list_length(parts));
	int			ntrue = 0;

	if (list_length(parts) == 1 || (nested && !any))
		return false;
	for (int i = 0; i < list_length(parts); i++)
	{
		terms[i] = next_term;
		conditions[i] = compile_part(explanation, (char *) list_nth(parts, i), &next_term);
		values[i] = outcome(explanation, conditions[i]);
		ntrue += is_true(values[i]);
	}
	for (int i = 0; i < list_length(parts); i++)
	{
		const char *part = (char *) list_nth(parts, i);
		const char *inner = CdpPredicateInParentheses(part);
		const char *needed = NULL;

		if (explanation->needs && is_true(values[i]) == member)
		{
			if (any && (!member || ntrue > 1))
				needed = member ? "one of these must stay true" : "one of these must become true";
			else
				needed = member ? "must stay true" : "must become true";
		}
		tell(explanation, part, needed, ROW_CONDITION, 0, conditions[i]);
		if (!any && inner != NULL && needed != NULL)
			(void) explain_conditions(explanation, inner, terms[i], member, true);
	}
	return true;
}

/*
 * The conditions, one by one, and the whole.
 */
static void
explain_predicate(Explanation *explanation, bool member)
{
	CdpSegmentRules *rules = explanation->rules;
	CdpSegmentColumns *columns = explanation->set->columns;
	const char *value = outcome(explanation, rules->predicate.expr);
	int			column = -1;
	bool		parts;

	/* whoever is in by exit_when stays whatever the predicate is */
	explanation->needs = is_true(value) == member && !(member && rules->exit_text != NULL);
	parts = explain_conditions(explanation, rules->predicate_text, 0, member, false);
	(void) add_row(explanation, "predicate",
				   parts || !explanation->needs ? NULL : member ? "must stay true" : "must become true",
				   ROW_CONDITION, 0, rules->predicate.expr);
	if (rules->exit_text != NULL)
	{
		bool		out = is_true(outcome(explanation, rules->exit_when.expr));

		(void) add_row(explanation, "exit_when",
					   member ? "must stay other than true" :
					   out ? "must become other than true" : NULL,
					   ROW_CONDITION, 0, rules->exit_when.expr);
	}
	while ((column = bms_next_member(rules->excluded, column)) >= 0)
	{
		bool		in = is_in(explanation->profile.after, explanation->profile.nafter,
							   columns->ids[column]);

		(void) add_row(explanation, psprintf("excluded: in_segment(%s)",
											 quote_literal_cstr(columns->names[column])),
					   in ? "must become false" : NULL, ROW_SEGMENT, columns->ids[column], NULL);
	}
	if (rules->holdout > 0)
	{
		bool		out = CdpHeldOut(rules, explanation->profile.profile_id);

		add_row(explanation, "held out", out ? "follows from the profile's number and the seed" : NULL,
				ROW_FIXED, 0, NULL)->value = out ? "true" : "false";
	}
	if (rules->purpose != NULL)
	{
		bool		consents = CdpConsentGranted(&explanation->values, rules->consent);

		(void) add_row(explanation, psprintf("purpose: consented(%s)", quote_literal_cstr(rules->purpose)),
					   member ? "must stay true" : consents ? NULL : "must become true",
					   ROW_CONSENT, 0, NULL);
	}
}

/* ---- as of an instant ---- */

/*
 * The profile that the identifier names; false when there is none.
 */
static bool
find_profile(Explanation *explanation, CdpIdentifier *identifier)
{
	CdpProfileEval *profile = &explanation->profile;
	CdpProfileNodes *nodes = &explanation->nodes;

	profile->profile_id = CdpProfileOfIdentifier(explanation->set->generation, identifier);
	if (profile->profile_id == 0 ||
		!CdpProfileRead(profile->profile_id, explanation->traits, nodes))
		return false;
	profile->nbefore = nodes->nsegments;
	profile->before = nodes->segments;
	profile->identifiers = CdpProfileIdentifiers(nodes);
	profile->nidentifiers = nodes->nnodes;
	return true;
}

/*
 * The same of an account.
 */
static bool
find_account(Explanation *explanation, CdpIdentifier *identifier, TimestampTz now)
{
	CdpProfileEval *account = &explanation->profile;
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	int			n = 0;

	CdpBecomeOwner(&saved);
	SPI_connect();
	account->profile_id = CdpAccountOfIdentifier(explanation->set->generation, identifier);
	MemoryContextSwitchTo(context);
	if (account->profile_id != 0)
	{
		CdpAccountRow *row = CdpAccountsRead(explanation->traits, &account->profile_id, 1, now,
											 NULL, &n);

		account->nbefore = n > 0 ? row->nsegments : 0;
		account->before = n > 0 ? row->segments : NULL;
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	MemoryContextSwitchTo(context);
	return n > 0;
}

/*
 * Values and memberships as of an instant, and the next one that matters.
 */
static void
evaluate_at(Explanation *explanation, TimestampTz at)
{
	CdpProfileEval *profile = &explanation->profile;
	CdpSegmentSet *set = explanation->set;
	MemoryContext context = CurrentMemoryContext;
	CdpUserContext saved;

	members_next = DT_NOEND;
	if (!explanation->traits->accounts)
	{
		CdpProfileStates states = {0};

		states.nodes = explanation->nodes.accs;
		states.nnodes = explanation->nodes.nnodes;
		states.out = &profile->values;
		states.only = explanation->depends;
		CdpProfileEvaluateAll(explanation->traits, &states, 1, at);
	}
	if (explanation->traits->accounts || explanation->primary)
	{
		CdpBecomeOwner(&saved);
		SPI_connect();
		MemoryContextSwitchTo(context);
		if (explanation->primary)
			CdpPrimaryAccounts(set->generation, profile, 1, at, read_members);
		else
		{
			int			n;

			profile->values = CdpAccountsRead(explanation->traits, &profile->profile_id, 1, at,
											  read_members, &n)->values;
		}
		SPI_finish();
		CdpRestoreUser(&saved);
		MemoryContextSwitchTo(context);
		if (explanation->primary && profile->primary != NULL)
			members_next = Min(members_next, profile->primary->next);
	}
	explanation->values = profile->values;
	CdpSegmentsEvaluateSome(set, profile, 1, at, bms_make_singleton(explanation->column), false);
	explanation->next = Min(profile->values.next, members_next);

	/* the expressions are evaluated once more, one by one */
	CdpEnvironmentInstant(set->columns->slots, at);
	CdpEnvironmentPrimary(set->columns->slots, profile->primary);
	CdpEnvironmentIdentity(set->columns->slots, set->generation,
						   profile->identifiers, profile->nidentifiers);
	CdpClockReset();
}

/*
 * When the timers of members are due from whom it follows what accounts are.
 */
static TimestampTz *
read_timers(Explanation *explanation, TimestampTz now, int *n)
{
	MemoryContext context = CurrentMemoryContext;
	CdpUserContext saved;
	Datum		args[] = {Int64GetDatum(explanation->profile.profile_id), TimestampTzGetDatum(now)};
	TimestampTz *timers;

	*n = 0;
	if (!explanation->traits->accounts && !explanation->primary)
		return NULL;
	CdpBecomeOwner(&saved);
	SPI_connect();
	*n = (int) CdpRun(&timers_of_members, args, NULL);
	timers = MemoryContextAlloc(context, sizeof(TimestampTz) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		bool		isnull;

		timers[i] = DatumGetTimestampTz(CdpCell(i, 1, &isnull));
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	MemoryContextSwitchTo(context);
	return timers;
}

/*
 * Would the instants at which something changes tell a value that is hidden
 * from the session's user?  What accounts follow from is not known here.
 */
static bool
tells_hidden(Explanation *explanation)
{
	int			i = -1;

	if (!CdpAnythingHidden())
		return false;
	if (explanation->traits->accounts || explanation->primary)
		return true;
	while ((i = bms_next_member(explanation->depends, i)) >= 0)
		if (CdpTraitHidden(explanation->traits, explanation->traits->traits[i]))
			return true;
	return false;
}

/*
 * Find out when each row becomes another if nothing happens.
 */
static void
look_ahead(Explanation *explanation, TimestampTz now)
{
	CdpProfileEval *profile = &explanation->profile;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext step = AllocSetContextCreate(context, "cdp explain", ALLOCSET_DEFAULT_SIZES);
	int32	   *before = palloc(sizeof(int32) * (explanation->set->columns->n + profile->nafter + 1));
	int			ntimers;
	TimestampTz *timers = read_timers(explanation, now, &ntimers);
	int			timer = 0;
	bool		open = true;

	explanation->next = Min(explanation->next, CdpClockNoted());
	for (int i = 0; i < MAX_STEPS && open; i++)
	{
		TimestampTz at = explanation->next;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		while (timer < ntimers && timers[timer] <= now)
			timer++;
		if (timer < ntimers)
			at = Min(at, timers[timer]);
		if (at == DT_NOEND || at <= now)
			break;
		memcpy(before, profile->after, sizeof(int32) * profile->nafter);
		profile->nbefore = profile->nafter;
		profile->before = before;
		MemoryContextReset(step);
		MemoryContextSwitchTo(step);
		evaluate_at(explanation, at);
		open = false;
		foreach(lc, explanation->rows)
		{
			Row		   *row = (Row *) lfirst(lc);
			const char *value;

			if (row->kind == ROW_FIXED || row->changes != DT_NOEND)
				continue;
			value = look(explanation, row);
			if (value == NULL ? row->value != NULL :
				row->value == NULL || strcmp(value, row->value) != 0)
				row->changes = at;
			else
				open = true;
		}
		explanation->next = Min(explanation->next, CdpClockNoted());
		now = at;
		MemoryContextSwitchTo(context);
	}
	MemoryContextDelete(step);
}

PG_FUNCTION_INFO_V1(cdp_explain_segment);

/*
 * cdp.explain_segment(name, identifier): evaluated at the read's instant.
 */
Datum
cdp_explain_segment(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	CdpIdentifier *identifier = PG_GETARG_IDENTIFIER_PP(1);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz applied;
	int64		generation = CdpApplierGlance(&applied);
	TimestampTz now = CdpReadInstant(applied);
	Explanation explanation = {0};
	CdpSegment *segment;
	CdpSegmentRules *rules;
	ListCell   *lc;
	int			nest_level;

	InitMaterializedSRF(fcinfo, 0);
	explanation.traits = CdpTraitSetGet(generation);
	explanation.set = CdpSegmentSetGet(generation, explanation.traits);
	explanation.column = CdpSegmentColumnByName(explanation.set, name);
	if (explanation.column < 0)
	{
		explanation.traits = CdpAccountTraitSetGet(generation);
		explanation.set = CdpSegmentSetGet(generation, explanation.traits);
		explanation.column = CdpSegmentColumnByName(explanation.set, name);
	}
	if (explanation.column < 0)
		CdpSegmentMissing(name);
	segment = CdpSegmentById(explanation.set, explanation.set->columns->ids[explanation.column]);
	if (segment == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("segment \"%s\" is not evaluated", name),
				 errhint("See the column \"state\" of cdp.segments.")));
	explanation.depends = segment->depends;
	explanation.primary = segment->primary;
	explanation.rules = rules = segment->rules;
	if (!(explanation.traits->accounts ? find_account(&explanation, identifier, now) :
		  find_profile(&explanation, identifier)))
		return (Datum) 0;

	evaluate_at(&explanation, now);
	nest_level = CdpPinSettings(rules->timezone);
	for (int i = 0; i < rules->references.nnames; i++)
		tell(&explanation, name_of_trait(rules->references.names[i]), NULL,
			 ROW_TRAIT, rules->references.traits[i], NULL);
	explain_terms(&explanation, rules->predicate_text);
	if (rules->exit_text != NULL)
		explain_terms(&explanation, rules->exit_text);
	if (OidIsValid(get_role_oid(rules->owner, true)))
		explain_predicate(&explanation, is_in(explanation.profile.after, explanation.profile.nafter,
											  segment->id));
	(void) add_row(&explanation, "member", NULL, ROW_SEGMENT, segment->id, NULL);
	if (!tells_hidden(&explanation))
		look_ahead(&explanation, now);
	CdpUnpinSettings(nest_level);

	foreach(lc, explanation.rows)
	{
		Row		   *row = (Row *) lfirst(lc);
		Datum		values[4];
		bool		nulls[4] = {false, row->value == NULL, row->needed == NULL,
		row->changes == DT_NOEND};

		values[0] = CStringGetTextDatum(row->term);
		values[1] = row->value ? CStringGetTextDatum(row->value) : (Datum) 0;
		values[2] = row->needed ? CStringGetTextDatum(row->needed) : (Datum) 0;
		values[3] = TimestampTzGetDatum(row->changes);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
