/*-------------------------------------------------------------------------
 *
 * environment.c
 *	  The rows from which predicates read: values of traits, memberships, and
 *	  what else they can ask for, the instant of the evaluation, the identifiers
 *	  of the profile, and the traits of its primary account.
 *
 * IDENTIFICATION
 *	  src/segments/environment.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "cdp.h"
#include "identity/account.h"
#include "segments/predicate.h"

static TupleTableSlot *
make_slot(TupleDesc desc)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);

	ExecStoreVirtualTuple(slot);
	return slot;
}

/*
 * In the current memory context.
 */
CdpPredicateSlots *
CdpPredicateSlotsMake(CdpTraitSet *traits, int nsegments)
{
	CdpPredicateSlots *slots = palloc0(sizeof(CdpPredicateSlots));
	CdpTraitSet *accounts = NULL;
	TupleDesc	desc = CreateTemplateTupleDesc(traits->ntraits);

	for (int i = 0; i < traits->ntraits; i++)
		TupleDescInitEntry(desc, i + 1, NULL, traits->traits[i]->type, -1, 0);
	slots->traits = make_slot(desc);

	desc = CreateTemplateTupleDesc(nsegments);
	for (int i = 0; i < nsegments; i++)
		TupleDescInitEntry(desc, i + 1, NULL, BOOLOID, -1, 0);
	slots->members = make_slot(desc);

	if (!traits->accounts)
		accounts = CdpAccountTraitSetGet(traits->generation);
	slots->ntraits = accounts == NULL ? 0 : accounts->ntraits;
	slots->values = palloc0(sizeof(Datum) * (CDP_ENV_N + slots->ntraits));
	slots->isnull = palloc(sizeof(bool) * (CDP_ENV_N + slots->ntraits));
	memset(slots->isnull, true, CDP_ENV_N + slots->ntraits);
	desc = CreateTemplateTupleDesc(CDP_ENV_N + slots->ntraits);
	TupleDescInitEntry(desc, CDP_ENV_NOW, NULL, TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, CDP_ENV_KINDS, NULL, TEXTARRAYOID, -1, 0);
	TupleDescInitEntry(desc, CDP_ENV_KNOWN, NULL, BOOLOID, -1, 0);
	for (int i = 0; i < slots->ntraits; i++)
		TupleDescInitEntry(desc, CDP_ENV_N + i + 1, NULL, accounts->traits[i]->type, -1, 0);
	slots->environment = make_slot(desc);
	slots->environment->tts_values = slots->values;
	slots->environment->tts_isnull = slots->isnull;

	slots->econtext = CreateStandaloneExprContext();
	slots->econtext->ecxt_scantuple = slots->traits;
	slots->econtext->ecxt_innertuple = slots->members;
	slots->econtext->ecxt_outertuple = slots->environment;
	return slots;
}

/*
 * Evaluate one initialised expression.  A predicate that is NULL is not true.
 */
bool
CdpPredicateValue(CdpPredicateSlots *slots, ExprState *state, const CdpProfileValues *values,
				  Datum *member, bool *never_null, bool *isnull)
{
	Datum		result;

	slots->traits->tts_values = values->values;
	slots->traits->tts_isnull = values->isnull;
	slots->members->tts_values = member;
	slots->members->tts_isnull = never_null;
	ResetExprContext(slots->econtext);
	result = ExecEvalExprSwitchContext(state, slots->econtext, isnull);
	return !*isnull && DatumGetBool(result);
}

Node *
CdpEnvironmentColumn(char code, int location)
{
	Var		   *var;

	switch (code)
	{
		case CDP_HIDDEN_KINDS:
			var = makeVar(OUTER_VAR, CDP_ENV_KINDS, TEXTARRAYOID, -1,
						  DEFAULT_COLLATION_OID, 0);
			break;
		case CDP_HIDDEN_KNOWN:
			var = makeVar(OUTER_VAR, CDP_ENV_KNOWN, BOOLOID, -1, InvalidOid, 0);
			break;
		case CDP_HIDDEN_NOW:
		case CDP_HIDDEN_DATE:
		case CDP_HIDDEN_LOCAL:
			var = makeVar(OUTER_VAR, CDP_ENV_NOW, TIMESTAMPTZOID, -1, InvalidOid, 0);
			break;
		default:
			return NULL;
	}
	var->location = location;
	if (code == CDP_HIDDEN_DATE)
		return (Node *) makeFuncExpr(F_DATE_TIMESTAMPTZ, DATEOID, list_make1(var),
									 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	if (code == CDP_HIDDEN_LOCAL)
		return (Node *) makeFuncExpr(F_TIMESTAMP_TIMESTAMPTZ, TIMESTAMPOID, list_make1(var),
									 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	return (Node *) var;
}

void
CdpEnvironmentInstant(CdpPredicateSlots *slots, TimestampTz now)
{
	slots->values[CDP_ENV_NOW - 1] = TimestampTzGetDatum(now);
	slots->isnull[CDP_ENV_NOW - 1] = false;
}

/*
 * The kinds are in the current memory context, which must last until the
 * profile has been evaluated.
 */
void
CdpEnvironmentIdentity(CdpPredicateSlots *slots, int64 generation,
					   CdpIdentifier **identifiers, int nidentifiers)
{
	CdpKindSet *kinds = CdpKindSetGet(generation);
	Datum	   *names = palloc(Max(nidentifiers, 1) * sizeof(Datum));
	bool		known = false;

	for (int i = 0; i < nidentifiers; i++)
	{
		const char *data = VARDATA_ANY(identifiers[i]);
		int			length = CdpIdentifierKindLength(identifiers[i]);
		CdpKind    *kind = CdpKindLookup(kinds, data, length);

		names[i] = PointerGetDatum(cstring_to_text_with_len(data, length));
		known |= kind != NULL && kind->registered && kind->links &&
			kind->priority < CDP_DEVICE_PRIORITY;
	}
	slots->values[CDP_ENV_KINDS - 1] =
		PointerGetDatum(construct_array(names, nidentifiers, TEXTOID, -1, false, TYPALIGN_INT));
	slots->isnull[CDP_ENV_KINDS - 1] = false;
	slots->values[CDP_ENV_KNOWN - 1] = BoolGetDatum(known);
	slots->isnull[CDP_ENV_KNOWN - 1] = false;
}

/*
 * values NULL: there is no account, all its traits are NULL.  What they point to
 * must last until the profile has been evaluated; afterwards nobody looks at
 * it: a segment that reads the account is evaluated with one or without
 * (CdpSegment.primary), and others have no such column.
 */
void
CdpEnvironmentPrimary(CdpPredicateSlots *slots, const CdpProfileValues *values)
{
	if (values == NULL)
	{
		memset(slots->isnull + CDP_ENV_N, true, slots->ntraits);
		return;
	}
	memcpy(slots->values + CDP_ENV_N, values->values, sizeof(Datum) * slots->ntraits);
	memcpy(slots->isnull + CDP_ENV_N, values->isnull, sizeof(bool) * slots->ntraits);
}

typedef struct Primary
{
	int64		profile;
	int64		account;
	int			place;			/* among the profiles */
} Primary;

static int
compare_profiles(const void *a, const void *b)
{
	int64		x = ((const Primary *) a)->profile;
	int64		y = ((const Primary *) b)->profile;

	return x < y ? -1 : x > y ? 1 : 0;
}

static int
compare_rows(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = ((const CdpAccountRow *) b)->id;

	return x < y ? -1 : x > y ? 1 : 0;
}

void
CdpPrimaryAccounts(int64 generation, CdpProfileEval *profiles, int n, TimestampTz now,
				   CdpMembersNowFunction members)
{
	int64	   *ids;
	Primary    *primaries;
	CdpMembership *memberships;
	CdpAccountRow *rows;
	int			nmemberships;
	int			nrows;
	int			next = 0;
	int			naccounts = 0;

	if (n == 0)
		return;
	ids = palloc(sizeof(int64) * n);
	primaries = palloc0(sizeof(Primary) * n);
	for (int i = 0; i < n; i++)
	{
		primaries[i].profile = ids[i] = profiles[i].profile_id;
		primaries[i].place = i;
	}
	qsort(primaries, n, sizeof(Primary), compare_profiles);
	memberships = CdpAccountsOfProfiles(ids, n, DT_NOEND, &nmemberships);
	for (int i = 0; i < n; i++)
	{
		while (next < nmemberships && memberships[next].profile_id < primaries[i].profile)
			next++;
		if (next == nmemberships || memberships[next].profile_id != primaries[i].profile)
			continue;
		/* the first one is the primary one */
		ids[naccounts++] = primaries[i].account = memberships[next].account_id;
	}
	rows = CdpAccountsRead(CdpAccountTraitSetGet(generation), ids, naccounts, now,
						   members, &nrows);
	for (int i = 0; i < n; i++)
	{
		CdpAccountRow *row = primaries[i].account == 0 ? NULL :
			bsearch(&primaries[i].account, rows, nrows, sizeof(CdpAccountRow), compare_rows);

		profiles[primaries[i].place].account = row;
		profiles[primaries[i].place].primary = row == NULL ? NULL : &row->values;
	}
}

void
CdpPrimaryAccountRead(int64 generation, CdpProfileEval *profile, TimestampTz now)
{
	MemoryContext context = CurrentMemoryContext;
	CdpUserContext saved;

	CdpBecomeOwner(&saved);
	SPI_connect();
	MemoryContextSwitchTo(context);
	CdpPrimaryAccounts(generation, profile, 1, now, CdpMembersNowRead);
	SPI_finish();
	CdpRestoreUser(&saved);
	MemoryContextSwitchTo(context);
}
