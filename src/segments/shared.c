/*-------------------------------------------------------------------------
 *
 * shared.c
 *	  Terms that several segments have in common are evaluated once for a
 *	  profile.
 *
 *	  What did() and its like count is shared already, as a hidden trait.  What
 *	  is left to a predicate is mostly a comparison, and looking up its result
 *	  would cost as much as making it anew.  But a sequence, a regular
 *	  expression or a large condition costs more.  When all definitions have
 *	  been compiled, such terms that occur twice, with the same owner and the
 *	  same time zone if that matters, are replaced by calls of
 *	  cdp.shared_term(), which evaluates the term the first time that a profile
 *	  of the chunk asks for it and remembers the result.
 *
 *	  Nothing else changes: a term that nobody looks at is not evaluated; an
 *	  error is not remembered, so each segment that meets it has it; and the
 *	  instant at which the result changes by itself is noted for each.
 *
 * IDENTIFICATION
 *	  src/segments/shared.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_func.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "compat.h"
#include "segments/predicate.h"

/* A term that weighs less is evaluated by each. */
#define WEIGHT_MIN		10
#define WEIGHT_COSTLY	100

/* No more than that are shared: results of each take 16 bytes a profile. */
#define SHARED_MAX		1000

/* For one profile of the chunk. */
typedef struct SharedResult
{
	bool		known;			/* evaluated */
	bool		value;
	bool		isnull;
	TimestampTz changes;		/* the instant noted */
} SharedResult;

typedef struct SharedTerm
{
	Node	   *node;			/* as first met */
	Expr	   *expr;			/* with the shared terms in it replaced */
	const char *owner;
	const char *timezone;		/* NULL: it does not matter */
	int			uses;
	MemoryContext context;		/* of the state */
	ExprState  *state;
	Oid			state_owner;
	bool		busy;			/* being evaluated, or left so by an error */
	CdpSharedTerms *terms;		/* NULL: not shared */
	SharedResult *results;		/* by profile of the chunk */
	struct SharedTerm *next;	/* of the same hash */
} SharedTerm;

struct CdpSharedTerms
{
	CdpPredicateSlots *slots;
	MemoryContext context;
	int			n;
	SharedTerm **items;
	int			profile;		/* of the chunk, that is being evaluated */
};

/* The terms of one hash. */
typedef struct Bucket
{
	uint32		hash;
	SharedTerm *first;
} Bucket;

/* A node of a tree, and the term that it is. */
typedef struct Place
{
	Node	   *node;
	SharedTerm *term;
} Place;

typedef struct FindContext
{
	HTAB	   *buckets;
	HTAB	   *places;
	List	   *found;			/* SharedTerm *, what is inside first */
	CdpSegmentRules *rules;		/* whose trees are walked */
	uint32		hash;			/* adds up over the nodes beneath one */
	int			weight;
	Node	   *keep;			/* when replacing: not to be replaced itself */
	Oid			function;		/* cdp.shared_term */
} FindContext;

static float4
cost_of(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	float4		cost = 0;

	if (HeapTupleIsValid(tuple))
	{
		cost = ((Form_pg_proc) GETSTRUCT(tuple))->procost;
		ReleaseSysCache(tuple);
	}
	return cost;
}

static int
weight_of(Node *node)
{
	Oid			function;
	const char *name;

	if (IsA(node, FuncExpr))
		function = ((FuncExpr *) node)->funcid;
	else if (IsA(node, OpExpr))
		function = get_opcode(((OpExpr *) node)->opno);
	else
		return IsA(node, ScalarArrayOpExpr) || IsA(node, CoerceViaIO);
	if (cost_of(function) >= WEIGHT_MIN)
		return WEIGHT_COSTLY;
	name = get_func_name(function);
	if (name == NULL)
		return 1;
	if (strstr(name, "regex") != NULL ||
		(get_func_namespace(function) == CdpSchemaOid() &&
		 (strncmp(name, "sequence_", 9) == 0 || strncmp(name, "changed_", 8) == 0)))
		return WEIGHT_COSTLY;
	return 1;
}

/* Not of all that it is, but equal ones have the same. */
static uint32
hash_of(Node *node)
{
	uint32		hash = hash_uint32(nodeTag(node));

	if (IsA(node, Var))
		hash = hash_combine(hash, hash_combine(((Var *) node)->varno, hash_uint32(((Var *) node)->varattno)));
	else if (IsA(node, FuncExpr))
		hash = hash_combine(hash, ((FuncExpr *) node)->funcid);
	else if (IsA(node, OpExpr))
		hash = hash_combine(hash, ((OpExpr *) node)->opno);
	else if (IsA(node, Const) && !((Const *) node)->constisnull && ((Const *) node)->constlen == -1)
	{
		struct varlena *value = (struct varlena *) DatumGetPointer(((Const *) node)->constvalue);

		hash = hash_combine(hash, hash_bytes((unsigned char *) value, VARSIZE_ANY(value)));
	}
	return hash;
}

static void
meet(FindContext *context, Node *node, uint32 hash)
{
	CdpSegmentRules *rules = context->rules;
	Bucket	   *bucket;
	SharedTerm *term;
	bool		found;

	bucket = (Bucket *) hash_search(context->buckets, &hash, HASH_ENTER, &found);
	if (!found)
		bucket->first = NULL;
	for (term = bucket->first; term != NULL; term = term->next)
	{
		if (strcmp(term->owner, rules->owner) == 0 && equal(term->node, node) &&
			(term->timezone == NULL || strcmp(term->timezone, rules->timezone) == 0))
			break;
	}
	if (term == NULL)
	{
		term = palloc0(sizeof(SharedTerm));
		term->node = node;
		term->owner = rules->owner;
		term->timezone = CdpNeedsSettings((Expr *) node) ? rules->timezone : NULL;
		term->next = bucket->first;
		bucket->first = term;
		context->found = lappend(context->found, term);
	}
	term->uses++;
	((Place *) hash_search(context->places, &node, HASH_ENTER, NULL))->term = term;
}

/*
 * Meet the terms of a tree that are worth it, those inside first.
 */
static bool
find_walker(Node *node, void *arg)
{
	FindContext *context = (FindContext *) arg;
	uint32		hash_above = context->hash;
	int			weight_above = context->weight;

	if (node == NULL)
		return false;
	CHECK_FOR_INTERRUPTS();
	check_stack_depth();
	context->hash = 0;
	context->weight = 0;
	(void) expression_tree_walker(node, find_walker, context);
	context->hash = hash_combine(hash_of(node), context->hash);
	context->weight = Min(context->weight + weight_of(node), WEIGHT_COSTLY);
	/* the arguments of some nodes are walked as one */
	if (context->weight >= WEIGHT_MIN && !IsA(node, List) && exprType(node) == BOOLOID)
		meet(context, node, context->hash);
	context->hash = hash_combine(hash_above, context->hash);
	context->weight = Min(weight_above + context->weight, WEIGHT_COSTLY);
	return false;
}

/*
 * The outermost terms that occur twice become calls.
 */
static Node *
replace_mutator(Node *node, void *arg)
{
	FindContext *context = (FindContext *) arg;
	Place	   *place = NULL;
	Const	   *self;

	if (node == NULL)
		return NULL;
	check_stack_depth();
	if (node != context->keep)
		place = (Place *) hash_search(context->places, &node, HASH_FIND, NULL);
	if (place == NULL || place->term->terms == NULL)
		return expression_tree_mutator(node, replace_mutator, arg);
	self = makeConst(INTERNALOID, -1, InvalidOid, sizeof(Datum),
					 PointerGetDatum(place->term), false, true);
	return (Node *) makeFuncExpr(context->function, BOOLOID, list_make1(self), InvalidOid,
								 InvalidOid, COERCE_EXPLICIT_CALL);
}

static Expr *
replace(FindContext *context, Expr *expr, bool keep)
{
	context->keep = keep ? (Node *) expr : NULL;
	return (Expr *) replace_mutator((Node *) expr, context);
}

static HTAB *
make_table(const char *name, Size keysize, Size entrysize)
{
	HASHCTL		ctl = { 0 };

	ctl.keysize = keysize;
	ctl.entrysize = entrysize;
	ctl.hcxt = CurrentMemoryContext;
	return hash_create(name, 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * Find what the segments of a set have in common, in the set's context.
 */
void
CdpSharedTermsFind(CdpSegmentSet *set, int chunk)
{
	CdpSharedTerms *terms = palloc0(sizeof(CdpSharedTerms));
	Oid			argtype = INTERNALOID;
	FindContext	context = { 0 };
	ListCell   *lc;

	context.buckets = make_table("cdp terms", sizeof(uint32), sizeof(Bucket));
	context.places = make_table("cdp places of terms", sizeof(Node *), sizeof(Place));
	context.function = LookupFuncName(list_make2(makeString("cdp"), makeString("shared_term")),
									  1, &argtype, false);
	for (int i = 0; i < set->nsegments; i++)
	{
		context.rules = set->segments[i].rules;
		(void) find_walker((Node *) context.rules->predicate.expr, &context);
		(void) find_walker((Node *) context.rules->exit_when.expr, &context);
	}
	terms->slots = set->columns->slots;
	terms->context = set->context;
	foreach(lc, context.found)
	{
		SharedTerm *term = (SharedTerm *) lfirst(lc);

		if (term->uses < 2 || terms->n == SHARED_MAX)
			continue;
		terms->n++;
		term->terms = terms;
		term->results = palloc0_array(SharedResult, chunk);
	}
	terms->items = palloc_array(SharedTerm *, Max(terms->n, 1));
	terms->n = 0;
	foreach(lc, context.found)
	{
		SharedTerm *term = (SharedTerm *) lfirst(lc);

		if (term->terms == NULL)
			continue;
		terms->items[terms->n++] = term;
		term->expr = replace(&context, (Expr *) term->node, true);
	}
	for (int i = 0; i < set->nsegments; i++)
	{
		CdpSegmentRules *rules = set->segments[i].rules;

		rules->predicate.shared = replace(&context, rules->predicate.expr, false);
		rules->exit_when.shared = replace(&context, rules->exit_when.expr, false);
	}
	hash_destroy(context.buckets);
	hash_destroy(context.places);
	set->columns->terms = terms;
}

/*
 * Other profiles: nothing is known of them.
 */
void
CdpSharedTermsBegin(CdpSharedTerms *terms, int nprofiles)
{
	for (int i = 0; i < terms->n; i++)
		memset(terms->items[i]->results, 0, sizeof(SharedResult) * nprofiles);
}

void
CdpSharedTermsProfile(CdpSharedTerms *terms, int profile)
{
	terms->profile = profile;
}

/*
 * As the current user, whose right to execute its functions is checked here.
 */
static void
init_state(SharedTerm *term)
{
	MemoryContext oldcontext;

	if (term->context == NULL)
		term->context = AllocSetContextCreate(term->terms->context, "cdp shared term",
											  ALLOCSET_SMALL_SIZES);
	term->state = NULL;
	MemoryContextReset(term->context);
	oldcontext = MemoryContextSwitchTo(term->context);
	term->state = ExecInitExpr(term->expr, NULL);
	term->state_owner = GetUserId();
	MemoryContextSwitchTo(oldcontext);
}

PG_FUNCTION_INFO_V1(cdp_shared_term);

/*
 * cdp.shared_term(internal): its argument is the term, so nobody else can call it.
 */
Datum
cdp_shared_term(PG_FUNCTION_ARGS)
{
	SharedTerm *term = (SharedTerm *) PG_GETARG_POINTER(0);
	SharedResult *result = &term->results[term->terms->profile];

	if (!result->known)
	{
		TimestampTz	outer;
		Datum		value;
		bool		isnull;

		if (term->state == NULL || term->state_owner != GetUserId() || term->busy)
			init_state(term);
		term->busy = true;
		outer = CdpClockWatch(DT_NOEND);
		value = ExecEvalExpr(term->state, term->terms->slots->econtext, &isnull);
		result->value = !isnull && DatumGetBool(value);
		result->isnull = isnull;
		result->changes = CdpClockWatch(outer);
		result->known = true;
		term->busy = false;
	}
	CdpClockNote(DT_NOBEGIN, result->changes);
	if (result->isnull)
		PG_RETURN_NULL();
	PG_RETURN_BOOL(result->value);
}
