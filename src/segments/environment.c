/*-------------------------------------------------------------------------
 *
 * environment.c
 *	  The rows from which predicates read: values of traits, memberships, and
 *	  what else they can ask for, the instant of the evaluation and the
 *	  identifiers of the profile.
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
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

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
	TupleDesc	desc = CreateTemplateTupleDesc(traits->ntraits);

	for (int i = 0; i < traits->ntraits; i++)
		TupleDescInitEntry(desc, i + 1, NULL, traits->traits[i]->type, -1, 0);
	slots->traits = make_slot(desc);

	desc = CreateTemplateTupleDesc(nsegments);
	for (int i = 0; i < nsegments; i++)
		TupleDescInitEntry(desc, i + 1, NULL, BOOLOID, -1, 0);
	slots->members = make_slot(desc);

	desc = CreateTemplateTupleDesc(CDP_ENV_N);
	TupleDescInitEntry(desc, CDP_ENV_NOW, NULL, TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, CDP_ENV_KINDS, NULL, TEXTARRAYOID, -1, 0);
	TupleDescInitEntry(desc, CDP_ENV_KNOWN, NULL, BOOLOID, -1, 0);
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
