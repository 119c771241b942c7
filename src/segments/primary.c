/*-------------------------------------------------------------------------
 *
 * primary.c
 *	  What segments of profiles make of the traits of accounts.
 *
 *	  A segment of profiles that reads account.<trait> may change for all members
 *	  of an account when the trait does.  But mostly what it asks is whether the
 *	  trait is more than a constant, or equal to one, and the answer stays the
 *	  same for many values.  So each predicate is taken apart: the largest
 *	  conditions in it that are about traits of the account and constants only,
 *	  that cannot fail and that look neither at the clock nor at a setting (each
 *	  segment has its own time zone), are its terms; traits that
 *	  are read outside of them (compared with a trait of the member, or with the
 *	  instant) count with their very value.  Of all that a hash is kept with the
 *	  account: while it stays the same, no member has to be looked at.
 *
 * IDENTIFICATION
 *	  src/segments/primary.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "segments/predicate.h"
#include "traits/traitset.h"

/* A condition about an account alone. */
typedef struct PrimaryTerm
{
	Expr *expr;
	ExprState *state;
	uint64 key; /* of its text */
} PrimaryTerm;

struct CdpPrimaryTerms
{
	List *terms; /* PrimaryTerm * */
	Bitmapset *values; /* traits (indexes) whose very values matter */
	HTAB *known; /* KnownTerms, while they are looked for */
};

/* Terms of one key. */
typedef struct KnownTerms
{
	uint64 key; /* hash key */
	List *terms; /* PrimaryTerm *: mostly one */
} KnownTerms;

static bool
is_of_account(const Node *node)
{
	return IsA(node, Var) && ((const Var *) node)->varno == OUTER_VAR &&
		((const Var *) node)->varattno > CDP_ENV_N;
}

static bool
of_account_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (is_of_account(node))
		return true;
	return expression_tree_walker(node, of_account_walker, context);
}

static bool
of_others_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return !is_of_account(node);
	return expression_tree_walker(node, of_others_walker, context);
}

static bool
is_condition(Node *node)
{
	switch (nodeTag(node))
	{
		case T_OpExpr:
		case T_ScalarArrayOpExpr:
		case T_DistinctExpr:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
			return exprType(node) == BOOLOID && CdpCannotFail((Expr *) node) &&
				!CdpNeedsSettings((Expr *) node) &&
				of_account_walker(node, NULL) && !of_others_walker(node, NULL);
		default:
			return false;
	}
}

/*
 * A hash of a condition; the same for conditions that are equal, wherever they stand in
 * their texts.
 */
static uint64
condition_key(Node *node)
{
	static const char location[] = ":location ";
	char *text = nodeToString(node);
	char *end = text;
	uint64 key;

	for (char *from = text; *from != '\0';)
	{
		if (strncmp(from, location, sizeof(location) - 1) == 0)
		{
			from += sizeof(location) - 1;
			from += strspn(from, "-0123456789");
		}
		else
			*end++ = *from++;
	}
	key = DatumGetUInt64(hash_any_extended((unsigned char *) text, end - text, 0));
	pfree(text);
	return key;
}

static bool
collect_walker(Node *node, void *context)
{
	struct CdpPrimaryTerms *found = context;

	CHECK_FOR_INTERRUPTS();
	if (node == NULL)
		return false;
	if (is_of_account(node))
		found->values = bms_add_member(found->values, ((Var *) node)->varattno - CDP_ENV_N - 1);
	else if (is_condition(node))
	{
		uint64 key = condition_key(node);
		bool known;
		KnownTerms *same = hash_search(found->known, &key, HASH_ENTER, &known);
		PrimaryTerm *term;
		ListCell *lc;

		if (!known)
			same->terms = NIL;
		foreach(lc, same->terms)
			if (equal(((PrimaryTerm *) lfirst(lc))->expr, node))
				return false;
		term = palloc(sizeof(PrimaryTerm));
		term->expr = (Expr *) node;
		term->state = ExecInitExpr(term->expr, NULL);
		term->key = key;
		same->terms = lappend(same->terms, term);
		found->terms = lappend(found->terms, term);
		return false;
	}
	return expression_tree_walker(node, collect_walker, context);
}

static void
find_terms(CdpSegmentSet *set)
{
	MemoryContext old = MemoryContextSwitchTo(set->context);
	struct CdpPrimaryTerms *found = palloc0(sizeof(struct CdpPrimaryTerms));
	HASHCTL ctl = { .keysize = sizeof(uint64), .entrysize = sizeof(KnownTerms) };

	ctl.hcxt = set->context;
	found->known = hash_create("cdp primary terms", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < set->nsegments; i++)
	{
		CdpSegmentRules *rules = set->segments[i].rules;

		if (rules->predicate.of_primary != NULL)
			(void) collect_walker((Node *) rules->predicate.expr, found);
		if (rules->exit_when.of_primary != NULL)
			(void) collect_walker((Node *) rules->exit_when.expr, found);
	}
	hash_destroy(found->known);
	found->known = NULL;
	set->primary_terms = found;
	MemoryContextSwitchTo(old);
}

int64
CdpPrimaryHash(CdpSegmentSet *set, CdpTraitSet *accounts, const CdpProfileValues *values)
{
	CdpPredicateSlots *slots = set->columns->slots;
	uint64 hash = 0;
	ListCell *lc;
	int i = -1;

	if (set->of_primary == NULL)
		return 0;
	if (set->primary_terms == NULL)
		find_terms(set);
	CdpEnvironmentPrimary(slots, values);
	foreach(lc, set->primary_terms->terms)
	{
		PrimaryTerm *term = lfirst(lc);
		bool isnull;
		Datum is;

		ResetExprContext(slots->econtext);
		is = ExecEvalExprSwitchContext(term->state, slots->econtext, &isnull);
		hash = hash_combine64(hash, term->key + (isnull ? 2 : DatumGetBool(is)));
	}
	while ((i = bms_next_member(set->primary_terms->values, i)) >= 0)
	{
		Datum value = CdpValueToJsonb(values->values[i], values->isnull[i],
									  accounts->traits[i]->type);
		StringInfoData buf;

		initStringInfo(&buf);
		(void) JsonbToCString(&buf, &DatumGetJsonbP(value)->root, 0);
		hash = hash_combine64(hash, DatumGetUInt64(hash_any_extended((unsigned char *) buf.data,
																	 buf.len,
																	 accounts->traits[i]->id)));
		pfree(buf.data);
	}
	return (int64) hash;
}
