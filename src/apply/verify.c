/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  What the stored states say at a given instant, for cdp.verify().
 *
 *	  The recomputation itself is written in SQL (sql/apply/verify*.sql) and
 *	  shares nothing with the code here.  This is the other side of the
 *	  comparison: the values that the incremental path would show if the clock
 *	  stood at the applied clock.
 *
 * IDENTIFICATION
 *	  src/apply/verify.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "traits/traits.h"

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = (char *) key;
	value.val.string.len = strlen(key);
	(void) pushJsonbValue(state, WJB_KEY, &value);
}

static void
push_jsonb(JsonbParseState **state, Jsonb *jsonb)
{
	JsonbValue	value;

	if (!JsonbExtractScalar(&jsonb->root, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = &jsonb->root;
		value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	(void) pushJsonbValue(state, WJB_VALUE, &value);
}

PG_FUNCTION_INFO_V1(cdp_profile_traits_at);

/*
 * cdp.profile_traits_at(profile_id bigint, at timestamptz) returns jsonb:
 * {"traits": what cdp.profile() would show at that instant, "values": the
 * value of every definition, hidden ones included}.  NULL when there is no
 * such profile.
 */
Datum
cdp_profile_traits_at(PG_FUNCTION_ARGS)
{
	Datum		args[1];
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(1);
	static SPIPlanPtr plan = NULL;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext work;
	CdpTraitSet *set;
	CdpNodeAcc **nodes;
	CdpProfileValues values;
	JsonbParseState *state = NULL;
	Jsonb	   *result;
	int			nnodes;
	int			i;

	args[0] = PG_GETARG_DATUM(0);
	SPI_connect();
	if (plan == NULL)
	{
		Oid			types[1] = {INT8OID};

		plan = SPI_prepare("SELECT state FROM cdp.identities WHERE profile_id = $1"
						   " ORDER BY node_id", 1, types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare query");
	}
	if (SPI_execute_plan(plan, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read identities");
	nnodes = (int) SPI_processed;
	if (nnodes == 0)
	{
		SPI_finish();
		PG_RETURN_NULL();
	}

	/* the set outlives this call, what is made of it does not */
	set = CdpTraitSetGet(-1);
	work = AllocSetContextCreate(CurrentMemoryContext, "cdp profile",
								 ALLOCSET_DEFAULT_SIZES);
	(void) MemoryContextSwitchTo(work);
	nodes = (CdpNodeAcc **) palloc(sizeof(CdpNodeAcc *) * nnodes);
	for (i = 0; i < nnodes; i++)
	{
		bool		isnull;
		Datum		datum = SPI_getbinval(SPI_tuptable->vals[i],
										  SPI_tuptable->tupdesc, 1, &isnull);

		nodes[i] = CdpNodeOpen(set, isnull ? NULL :
							   (struct varlena *) PG_DETOAST_DATUM(datum));
	}
	CdpProfileEvaluate(set, nodes, nnodes, at, &values);

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_key(&state, "traits");
	push_jsonb(&state, CdpProfileTraitsJson(set, nodes, nnodes, at));
	push_key(&state, "values");
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < set->ntraits; i++)
	{
		Datum		value;

		if (values.isnull[i])
			continue;
		push_key(&state, set->traits[i]->name);
		value = CdpValueToJsonb(values.values[i], false, set->traits[i]->type);
		push_jsonb(&state, DatumGetJsonbP(value));
	}
	(void) pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	if (!TIMESTAMP_IS_NOEND(values.next))
	{
		push_key(&state, "next");
		push_jsonb(&state, DatumGetJsonbP(CdpValueToJsonb(TimestampTzGetDatum(values.next),
														  false, TIMESTAMPTZOID)));
	}
	(void) MemoryContextSwitchTo(caller);
	result = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	SPI_finish();
	PG_RETURN_JSONB_P(result);
}
