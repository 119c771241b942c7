/*-------------------------------------------------------------------------
 *
 * sketch.c
 *	  States that would grow without bound, once they have: numbers of
 *	  distinct values by HyperLogLog, percentiles by a histogram.
 *
 *	  Which values are in a sketch does not depend on their order, and whether
 *	  there is a sketch depends only on how many different values there are.  So
 *	  a state with a sketch is a function of the values like any other, and
 *	  recomputing it gives the same bytes.
 *
 *	  HyperLogLog: 4096 registers, standard error 1.04 / sqrt(4096) = 1.6 %;
 *	  estimated as in O. Ertl, "New cardinality estimation algorithms for
 *	  HyperLogLog sketches" (2017), which needs no tables and no special cases.
 *
 *	  Histogram: a bucket is a sign, a power of two and the next seven bits of
 *	  the mantissa of the value as double precision; its middle is at most
 *	  1/256 = 0.4 % away from every value in it.  No logarithm is taken, so all
 *	  machines agree.
 *
 * IDENTIFICATION
 *	  src/traits/sketch.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "traits/state.h"

#define REGISTER_BITS	12
#define HASH_BITS		(64 - REGISTER_BITS)

#define MANTISSA_BITS	7
#define BUCKET_SHIFT	(52 - MANTISSA_BITS)

/*
 * HyperLogLog.
 */

void
CdpSketchAddValue(uint8 *registers, const CdpStateRules *rules, Datum value)
{
	uint64		hash = DatumGetUInt64(FunctionCall2Coll(rules->hash, C_COLLATION_OID,
														value, UInt64GetDatum(0)));
	int			index = (int) (hash >> HASH_BITS);
	uint64		rest = hash & ((UINT64CONST(1) << HASH_BITS) - 1);
	uint8		rank = rest == 0 ? HASH_BITS + 1 :
	HASH_BITS - pg_leftmost_one_pos64(rest);

	if (registers[index] < rank)
		registers[index] = rank;
}

bool
CdpSketchValid(const uint8 *registers)
{
	for (int i = 0; i < CDP_SKETCH_REGISTERS; i++)
		if (registers[i] > HASH_BITS + 1)
			return false;
	return true;
}

static double
sigma(double x)
{
	double		y = 1.0;
	double		z = x;
	double		last;

	if (x == 1.0)
		return INFINITY;
	do
	{
		x = x * x;
		last = z;
		z = z + x * y;
		y = y + y;
	} while (z != last);
	return z;
}

static double
tau(double x)
{
	double		y = 1.0;
	double		z = 1.0 - x;
	double		last;

	if (x == 0.0 || x == 1.0)
		return 0.0;
	do
	{
		x = sqrt(x);
		last = z;
		y = 0.5 * y;
		z = z - (1.0 - x) * (1.0 - x) * y;
	} while (z != last);
	return z / 3.0;
}

int64
CdpSketchEstimate(const uint8 *registers)
{
	const double m = CDP_SKETCH_REGISTERS;
	int			counts[HASH_BITS + 2] = {0};
	double		z;

	for (int i = 0; i < CDP_SKETCH_REGISTERS; i++)
		counts[Min(registers[i], HASH_BITS + 1)]++;
	z = m * tau(1.0 - counts[HASH_BITS + 1] / m);
	for (int i = HASH_BITS; i >= 1; i--)
		z = 0.5 * (z + counts[i]);
	z = z + m * sigma(counts[0] / m);
	return (int64) rint(m * m / (2.0 * 0.6931471805599453 * z));
}

/*
 * Histogram.
 */

static Numeric
constant(const char *text)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	Numeric		result;

	result = DatumGetNumeric(DirectFunctionCall3(numeric_in,
												 CStringGetDatum(text),
												 ObjectIdGetDatum(InvalidOid),
												 Int32GetDatum(-1)));
	MemoryContextSwitchTo(old);
	return result;
}

static int
compare_numeric(Numeric a, Numeric b)
{
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a),
											 NumericGetDatum(b)));
}

/*
 * The bucket of a number.  Buckets are in the order of the numbers in them; 0
 * is that of zero and of what is closer to it than 1e-300, and what is beyond
 * 1e300 is taken for that (NaN is greater than all numbers).
 */
int64
CdpSketchBucket(Datum value)
{
	static Numeric largest = NULL;
	static Numeric lowest = NULL;
	static Numeric tiny = NULL;
	static Numeric minus_tiny = NULL;
	Numeric		number = DatumGetNumeric(value);
	union
	{
		float8		f;
		uint64		bits;
	}			u;
	int64		bucket;

	if (minus_tiny == NULL)
	{
		largest = constant("1e300");
		lowest = constant("-1e300");
		tiny = constant("1e-300");
		minus_tiny = constant("-1e-300");
	}
	if (compare_numeric(number, largest) > 0)
		number = largest;
	else if (compare_numeric(number, lowest) < 0)
		number = lowest;
	else if (compare_numeric(number, tiny) < 0 &&
			 compare_numeric(number, minus_tiny) > 0)
		return 0;
	u.f = DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(number)));
	bucket = (int64) ((u.bits & ~(UINT64CONST(1) << 63)) >> BUCKET_SHIFT);
	return u.f < 0 ? -bucket : bucket;
}

/* The middle of a bucket as numeric. */
Datum
CdpSketchMiddle(int64 bucket)
{
	union
	{
		float8		f;
		uint64		bits;
	}			u;

	if (bucket == 0)
		u.f = 0;
	else
	{
		u.bits = ((uint64) (bucket < 0 ? -bucket : bucket) << BUCKET_SHIFT) |
			(UINT64CONST(1) << (BUCKET_SHIFT - 1));
		if (bucket < 0)
			u.f = -u.f;
	}
	return DirectFunctionCall1(float8_numeric, Float8GetDatum(u.f));
}

/* Could CdpSketchBucket have said so? */
bool
CdpSketchBucketValid(int64 bucket)
{
	int64		size = bucket < 0 ? -bucket : bucket;

	/* from 1e-300 to 1e300: exponents -997 to 996 */
	return bucket == 0 ||
		(size >= (int64) (1023 - 997) << MANTISSA_BITS &&
		 size < (int64) (1023 + 997) << MANTISSA_BITS);
}
