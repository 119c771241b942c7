{{ config(entity='account', aggregate='count', event='Order Completed') }}
